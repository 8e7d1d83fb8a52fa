//! Where a run is reached, and with what: as a file in its output folder and as variables of the environment.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::error::ControlError;
use crate::tls;
use crate::token::Token;

/// The file's name in the output folder of a run.
pub const FILE: &str = "control.json";
/// HOST:PORT of the coordinator.
pub const ADDRESS_VARIABLE: &str = "GPART_CONTROL_ADDRESS";
/// The token.
pub const TOKEN_VARIABLE: &str = "GPART_CONTROL_TOKEN";
/// The certificates to trust, if the coordinator speaks TLS: each as base64 of its DER form, with commas between.
pub const CA_VARIABLE: &str = "GPART_CONTROL_CA";

/// Where a run is reached, and with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// HOST:PORT; an IPv6 address in brackets.
    pub address: String,
    /// The secret.
    pub token: Token,
    /// The certificates (PEM) of which one must vouch for the coordinator. `None`: no TLS, which is for loopback alone.
    pub certificate: Option<String>,
}

/// The file as it is written.
#[derive(Serialize, Deserialize)]
struct File {
    /// Tells our files from others.
    format: String,
    address: String,
    token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<String>,
    /// The process that serves, its host, and when it began (Unix time in seconds): for a person who finds the file.
    pid: u32,
    host: String,
    started: u64,
}

const FORMAT: &str = "gpart-dist control 1";
/// More than a chain of certificates needs.
const LARGEST_FILE: u64 = 1 << 20;

impl Endpoint {
    /// Writes `control.json` into `folder`, whole or not at all, readable by this user alone. Returns its path.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write(&self, folder: &Path) -> Result<PathBuf, ControlError> {
        let path = folder.join(FILE);
        let error = |source| ControlError::WriteControlFile { path: path.clone(), source };
        let file = File {
            format: FORMAT.into(),
            address: self.address.clone(),
            token: self.token.reveal(),
            certificate: self.certificate.clone(),
            pid: std::process::id(),
            host: tls::host_name(),
            started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        };
        let mut text = serde_json::to_vec_pretty(&file).map_err(|wrong| error(wrong.into()))?;
        text.push(b'\n');
        // `tempfile` makes its files with mode 0600, and a rename keeps the mode.
        let mut temporary = tempfile::NamedTempFile::new_in(folder).map_err(error)?;
        temporary.write_all(&text).map_err(error)?;
        temporary.as_file().sync_all().map_err(error)?;
        temporary.persist(&path).map_err(|wrong| error(wrong.error))?;
        Ok(path)
    }

    /// Reads `control.json` of `folder`, or of the folder of the file itself.
    ///
    /// Whether anybody still answers at its address is found out by [`Client::connect`](crate::Client::connect).
    ///
    /// # Errors
    /// The file is not there, not readable, or not ours.
    pub fn read(folder: &Path) -> Result<Self, ControlError> {
        let path = if folder.file_name().is_some_and(|name| name == FILE) {
            folder.to_owned()
        } else {
            folder.join(FILE)
        };
        let file = parse(&path, &read_small(&path)?)?;
        let damaged =
            |reason: &str| ControlError::ControlFileDamaged { path: path.clone(), reason: reason.into() };
        let token =
            Token::parse(&file.token).ok_or_else(|| damaged("its token is not 64 hexadecimal digits"))?;
        let endpoint = Self { address: file.address, token, certificate: file.certificate };
        endpoint.check().map_err(|wrong| damaged(&wrong.to_string()))?;
        Ok(endpoint)
    }

    /// The variables that hand it to a process that is started. They hold the token: give them by name
    /// (`mpirun -x NAME`), never as an argument.
    pub fn to_env(&self) -> Vec<(&'static str, String)> {
        let mut variables =
            vec![(ADDRESS_VARIABLE, self.address.clone()), (TOKEN_VARIABLE, self.token.reveal())];
        if let Some(pem) = &self.certificate {
            variables.push((CA_VARIABLE, tls::to_line(pem)));
        }
        variables
    }

    /// The endpoint of this process's environment; `None` where no launcher has set one.
    ///
    /// # Errors
    /// The variables are there and do not fit.
    pub fn from_env() -> Result<Option<Self>, ControlError> {
        Self::from_variables(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// The same from any source of variables.
    ///
    /// # Errors
    /// The variables are there and do not fit.
    pub fn from_variables(
        variable: impl Fn(&'static str) -> Option<String>,
    ) -> Result<Option<Self>, ControlError> {
        let wrong = |name, reason: String| ControlError::Environment { name, reason };
        let Some(address) = variable(ADDRESS_VARIABLE) else { return Ok(None) };
        let Some(token) = variable(TOKEN_VARIABLE) else {
            return Err(wrong(TOKEN_VARIABLE, format!("it is missing beside {ADDRESS_VARIABLE}")));
        };
        let token = Token::parse(token.trim())
            .ok_or_else(|| wrong(TOKEN_VARIABLE, "it is not 64 hexadecimal digits".into()))?;
        let certificate = variable(CA_VARIABLE)
            .map(|line| tls::from_line(&line).map_err(|reason| wrong(CA_VARIABLE, reason)))
            .transpose()?;
        let endpoint = Self { address, token, certificate };
        endpoint.check().map_err(|error| wrong(ADDRESS_VARIABLE, error.to_string()))?;
        Ok(Some(endpoint))
    }

    /// The host part of the address, without brackets.
    pub(crate) fn host(&self) -> &str {
        let host = self.address.rsplit_once(':').map_or(self.address.as_str(), |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Whether the address is one.
    pub(crate) fn check(&self) -> Result<(), ControlError> {
        split(&self.address).map(drop)
    }
}

/// HOST:PORT in its parts.
pub(crate) fn split(address: &str) -> Result<(&str, u16), ControlError> {
    let wrong = |reason: &str| ControlError::Address { address: address.into(), reason: reason.into() };
    let (host, port) = address.rsplit_once(':').ok_or_else(|| wrong("it has no port"))?;
    let port = port.parse().map_err(|_| wrong("its port is not a number up to 65535"))?;
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match bare {
        Some(inner) if inner.parse::<std::net::Ipv6Addr>().is_ok() => Ok((inner, port)),
        Some(_) => Err(wrong("what stands in brackets is not an IPv6 address")),
        None if host.is_empty() => Err(wrong("it has no host")),
        None if host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) => {
            Ok((host, port))
        }
        None => Err(wrong("its host is neither a name nor an address")),
    }
}

fn read_small(path: &Path) -> Result<Vec<u8>, ControlError> {
    let refused = |source: std::io::Error| match source.kind() {
        ErrorKind::NotFound => ControlError::NoControlFile { path: path.into() },
        _ => ControlError::ReadControlFile { path: path.into(), source },
    };
    let size = std::fs::metadata(path).map_err(refused)?.len();
    if size > LARGEST_FILE {
        return Err(ControlError::ControlFileDamaged {
            path: path.into(),
            reason: format!("it has {size} bytes"),
        });
    }
    std::fs::read(path).map_err(refused)
}

fn parse(path: &Path, text: &[u8]) -> Result<File, ControlError> {
    let damaged = |reason: String| ControlError::ControlFileDamaged { path: path.into(), reason };
    let file: File = serde_json::from_slice(text).map_err(|wrong| damaged(wrong.to_string()))?;
    if file.format != FORMAT {
        return Err(damaged(format!("its format is \"{}\"", crate::wire::clean(&file.format, 40))));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_certificate_survives_as_one_line() {
        let pem = tls::made_now("host.example").expect("a certificate").trusted;
        let two = format!("{pem}{pem}");
        let line = tls::to_line(&two);
        assert!(!line.contains(char::is_whitespace) && line.matches(',').count() == 1, "{line}");
        assert_eq!(tls::from_line(&line).expect("the same").replace('\r', ""), two.replace('\r', ""));
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for (address, host) in
            [("a-b.example:1", "a-b.example"), ("[::1]:65535", "::1"), ("127.0.0.1:0", "127.0.0.1")]
        {
            assert_eq!(split(address).expect("an address").0, host);
        }
        for wrong in
            ["", ":", ":1", "a", "a:", "a:65536", "a:-1", "[::1]", "[a]:1", "::1:1", "a b:1", "a/b:1", "é:1"]
        {
            assert!(split(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_environment_is_read(address in "\\PC{0,30}", token in "\\PC{0,70}", authority in "\\PC{0,200}") {
            let _ = Endpoint::from_variables(|name| match name {
                ADDRESS_VARIABLE => Some(address.clone()),
                TOKEN_VARIABLE => Some(token.clone()),
                _ => Some(authority.clone()),
            });
            let endpoint = Endpoint {
                address,
                token: Token::parse(&"0".repeat(64)).expect("a token"),
                certificate: Some(authority),
            };
            let _ = crate::client::Dial::new(&endpoint);
        }

        #[test]
        fn any_file_is_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(parse(Path::new("control.json"), &bytes).is_err());
        }
    }
}
