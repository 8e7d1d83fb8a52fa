//! The control plane over real sockets. One binary: libraries below are compiled into each.

mod common;
mod hostile;
mod run;
mod stock_client;
mod survival;
mod tls;
