//! A Parquet file whose pages are looked at before they are decoded: the decoder makes room for as many dictionary
//! entries as a page claims to have, which in a damaged file may be billions.

use parquet::basic::Type as PhysicalType;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::reader::{ChunkReader, FileReader, RowGroupReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::schema::types::{ColumnDescriptor, Type};

/// The file's rows with the columns of `projection`.
pub(super) fn rows(
    file: SerializedFileReader<impl ChunkReader + 'static>,
    projection: Type,
) -> Result<RowIter<'static>> {
    RowIter::from_file_into(Box::new(CheckedFile(file))).project(Some(projection))
}

struct CheckedFile<R: ChunkReader>(SerializedFileReader<R>);

impl<R: ChunkReader + 'static> FileReader for CheckedFile<R> {
    fn metadata(&self) -> &ParquetMetaData {
        self.0.metadata()
    }

    fn num_row_groups(&self) -> usize {
        self.0.num_row_groups()
    }

    fn get_row_group(&self, i: usize) -> Result<Box<dyn RowGroupReader + '_>> {
        Ok(Box::new(CheckedGroup(self.0.get_row_group(i)?)))
    }

    fn get_row_iter(&self, projection: Option<Type>) -> Result<RowIter<'_>> {
        RowIter::from_file(projection, self)
    }
}

struct CheckedGroup<'a>(Box<dyn RowGroupReader + 'a>);

impl RowGroupReader for CheckedGroup<'_> {
    fn metadata(&self) -> &RowGroupMetaData {
        self.0.metadata()
    }

    fn num_columns(&self) -> usize {
        self.0.num_columns()
    }

    fn get_column_page_reader(&self, i: usize) -> Result<Box<dyn PageReader>> {
        let bits = bits_of_value(self.metadata().column(i).column_descr());
        Ok(Box::new(CheckedPages { pages: self.0.get_column_page_reader(i)?, bits }))
    }

    fn get_column_bloom_filter(&self, i: usize) -> Option<&parquet::bloom_filter::Sbbf> {
        self.0.get_column_bloom_filter(i)
    }

    fn get_row_iter(&self, projection: Option<Type>) -> Result<RowIter<'_>> {
        RowIter::from_row_group(projection, self)
    }
}

/// The fewest bits that a value takes in a dictionary, where values are stored plainly.
fn bits_of_value(column: &ColumnDescriptor) -> u64 {
    match column.physical_type() {
        PhysicalType::BOOLEAN => 1,
        // A text is preceded by its length, 4 bytes.
        PhysicalType::INT32 | PhysicalType::FLOAT | PhysicalType::BYTE_ARRAY => 32,
        PhysicalType::INT64 | PhysicalType::DOUBLE => 64,
        PhysicalType::INT96 => 96,
        // Values of no bytes need no dictionary of more than a few.
        PhysicalType::FIXED_LEN_BYTE_ARRAY => 8 * u64::try_from(column.type_length()).unwrap_or(1).max(1),
    }
}

struct CheckedPages {
    pages: Box<dyn PageReader>,
    /// See [`bits_of_value`].
    bits: u64,
}

impl CheckedPages {
    fn checked(&self, page: Option<Page>) -> Result<Option<Page>> {
        if let Some(Page::DictionaryPage { buf, num_values, .. }) = &page
            && u64::from(*num_values) * self.bits > 8 * buf.len() as u64
        {
            let bytes = buf.len();
            let problem = format!("a dictionary of {bytes} bytes claims to have {num_values} values");
            return Err(ParquetError::General(problem));
        }
        Ok(page)
    }
}

impl Iterator for CheckedPages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for CheckedPages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.pages.get_next_page()?;
        self.checked(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.pages.skip_next_page()
    }

    fn supports_deferred_dictionary(&self) -> bool {
        self.pages.supports_deferred_dictionary()
    }

    fn take_deferred_dictionary(&mut self) -> Result<Option<Page>> {
        let page = self.pages.take_deferred_dictionary()?;
        self.checked(page)
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.pages.at_record_boundary()
    }
}
