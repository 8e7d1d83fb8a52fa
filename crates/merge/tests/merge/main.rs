//! Whole merges: files in, files out.
#![allow(clippy::unwrap_used, missing_docs)]

mod dtypes;
mod fixture;
mod golden;
mod interrupted;
mod large;
mod refusals;
