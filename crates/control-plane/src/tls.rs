//! Certificates: made at start and pinned, or from the user's files.

use std::net::IpAddr;
use std::path::Path;

use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

use crate::error::ControlError;

/// What a server shows and what its clients trust.
pub(crate) struct Served {
    pub config: ServerTlsConfig,
    pub trusted: String,
}

/// A certificate that is made now, for the names under which this host is reached. Clients pin it.
pub(crate) fn made_now(host: &str) -> Result<Served, ControlError> {
    let wrong =
        |reason: rcgen::Error| ControlError::Certificate { what: "certificate", reason: reason.to_string() };
    let mut names = vec![host.to_owned(), "localhost".into(), "127.0.0.1".into(), "::1".into(), host_name()];
    names.sort();
    names.dedup();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "gpart-dist control plane");
    for name in names {
        let alternative = match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => match name.try_into() {
                Ok(dns) => SanType::DnsName(dns),
                Err(_) => continue,
            },
        };
        params.subject_alt_names.push(alternative);
    }
    let key = KeyPair::generate().map_err(wrong)?;
    let certificate = params.self_signed(&key).map_err(wrong)?.pem();
    let identity = Identity::from_pem(&certificate, key.serialize_pem());
    Ok(Served { config: ServerTlsConfig::new().identity(identity), trusted: certificate })
}

/// The user's own files (PEM).
pub(crate) fn from_files(certificate: &Path, key: &Path, authority: &Path) -> Result<Served, ControlError> {
    let chain = pem_file("certificate", certificate, "CERTIFICATE")?;
    let key = pem_file("key", key, "PRIVATE KEY")?;
    let trusted = pem_file("authority", authority, "CERTIFICATE")?;
    check_trusted(&trusted)?;
    let identity = Identity::from_pem(chain, key);
    Ok(Served { config: ServerTlsConfig::new().identity(identity), trusted })
}

/// What a client trusts, and the name that it expects.
pub(crate) fn client(trusted: &str, host: &str) -> Result<ClientTlsConfig, ControlError> {
    check_trusted(trusted)?;
    Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(trusted)).domain_name(host))
}

/// Whether certificates (PEM) can be trusted at all: the library below would pass over those that it cannot read.
fn check_trusted(pem: &str) -> Result<(), ControlError> {
    let wrong = |reason: String| ControlError::Certificate { what: "authority", reason };
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        store.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if store.is_empty() { Err(wrong("it holds no certificate".into())) } else { Ok(()) }
}

fn pem_file(what: &'static str, path: &Path, label: &str) -> Result<String, ControlError> {
    let wrong =
        |reason: String| ControlError::Certificate { what, reason: format!("{}: {reason}", path.display()) };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    if text.contains("-----BEGIN ") && text.contains(label) {
        Ok(text)
    } else {
        Err(wrong(format!("it holds no {label} in PEM form")))
    }
}

/// Certificates in PEM form as one line, which any launcher hands through.
pub(crate) fn to_line(pem: &str) -> String {
    let mut line = String::new();
    for text in pem.lines().map(str::trim) {
        if text.starts_with("-----BEGIN") {
            if !line.is_empty() {
                line.push(',');
            }
        } else if !text.starts_with("-----") {
            line.push_str(text);
        }
    }
    line
}

/// What [`to_line`] made, in PEM form again.
pub(crate) fn from_line(line: &str) -> Result<String, String> {
    let mut pem = String::new();
    for part in line.trim().split(',') {
        let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
        if part.is_empty() || !part.bytes().all(is_base64) {
            return Err("it is not base64 of certificates with commas between".into());
        }
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        for start in (0..part.len()).step_by(64) {
            pem.push_str(&part[start..part.len().min(start + 64)]);
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    Ok(pem)
}

/// This host's name, as its system tells it.
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
