//! Scalars as a TensorBoard event file.
//!
//! The crates that write these files either need `protoc` to build or panic on a full disk; a scalar event is five
//! protobuf fields in a TFRecord frame, so it is written here.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// An event file that grows by a record a call.
pub(crate) struct EventFile {
    file: File,
}

impl EventFile {
    /// A new event file in `folder`, named by the time, as TensorBoard expects. It tells TensorBoard that the session
    /// goes on from `step`, so that later steps of an earlier, killed session are not drawn.
    pub(crate) fn create(folder: &Path, step: u64) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let now = now();
        let name = format!("events.out.tfevents.{:010}.{}.gpart-dist", now.as_secs(), now.subsec_nanos());
        let file = OpenOptions::new().create_new(true).append(true).open(folder.join(name))?;
        let mut this = Self { file };
        let mut event = wall_time();
        bytes_field(&mut event, 3, b"brain.Event:2");
        this.record(&event)?;
        // Field 7 is a session log; its status 1 means START.
        let mut event = wall_time();
        key(&mut event, 2, 0);
        varint(&mut event, step + 1);
        bytes_field(&mut event, 7, &[0x08, 1]);
        this.record(&event)?;
        Ok(this)
    }

    /// Adds scalars of a step, by tag.
    pub(crate) fn scalars(&mut self, step: u64, scalars: &[(&str, f64)]) -> std::io::Result<()> {
        let mut summary = Vec::new();
        for (tag, value) in scalars {
            let mut entry = Vec::new();
            bytes_field(&mut entry, 1, tag.as_bytes());
            key(&mut entry, 2, 5);
            entry.extend((*value as f32).to_le_bytes());
            bytes_field(&mut summary, 1, &entry);
        }
        let mut event = wall_time();
        key(&mut event, 2, 0);
        varint(&mut event, step);
        bytes_field(&mut event, 5, &summary);
        self.record(&event)
    }

    /// A TFRecord: length, its checksum, data, its checksum. One write, so a kill tears at most the last record.
    fn record(&mut self, data: &[u8]) -> std::io::Result<()> {
        let length = (data.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(data.len() + 16);
        record.extend(length);
        record.extend(masked_crc(&length));
        record.extend(data);
        record.extend(masked_crc(data));
        self.file.write_all(&record)
    }
}

fn now() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// An event with its time alone: field 1, a double.
fn wall_time() -> Vec<u8> {
    let mut event = Vec::new();
    key(&mut event, 1, 1);
    event.extend(now().as_secs_f64().to_le_bytes());
    event
}

fn masked_crc(data: &[u8]) -> [u8; 4] {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

fn key(out: &mut Vec<u8>, field: u64, wire_type: u64) {
    varint(out, field << 3 | wire_type);
}

fn bytes_field(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    key(out, field, 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn records_have_the_published_frame() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = EventFile::create(folder.path(), 0).unwrap();
        events.scalars(300, &[("a", 1.5)]).unwrap();
        let path = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        let bytes = std::fs::read(path).unwrap();
        let length_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
        let second = length_at(0) + 16;
        let third = second + length_at(second) + 16;
        let length = length_at(third);
        assert_eq!(bytes.len(), third + length + 16);
        // After the time (9 bytes): the session starts before step 1; then step 300 with one value.
        assert_eq!(bytes[second + 12 + 9..third - 4], [0x10, 1, 0x3a, 2, 0x08, 1]);
        assert_eq!(
            bytes[third + 12 + 9..third + 12 + length],
            [0x10, 0xac, 0x02, 0x2a, 10, 0x0a, 8, 0x0a, 1, b'a', 0x15, 0, 0, 0xc0, 0x3f]
        );
        // crc32c of "123456789" is 0xe3069283 (RFC 3720); this is TensorFlow's mask of it.
        assert_eq!(masked_crc(b"123456789"), 0xc78a_b0e5_u32.to_le_bytes());
    }
}
