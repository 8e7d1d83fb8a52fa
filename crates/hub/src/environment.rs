//! What the environment says: where the cache lies, which hub to ask, with which token.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use ureq::http::Uri;
use ureq::tls::{Certificate, PemItem, RootCerts, parse_pem};

use crate::HubError;

/// How a variable is looked up.
pub(crate) type Variables<'a> = &'a dyn Fn(&str) -> Option<OsString>;

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// The settings of `huggingface_hub`, by its own variables.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The folder that holds `models--owner--name`.
    pub(crate) cache: PathBuf,
    /// The hub's address, without a slash at its end.
    pub(crate) endpoint: String,
    pub(crate) is_offline: bool,
    pub(crate) token: Option<Token>,
    pub(crate) proxy: Option<ureq::Proxy>,
    /// Variable and path of a file with the certificates to trust, for networks whose proxy opens TLS.
    pub(crate) certificates: Option<(&'static str, PathBuf)>,
}

/// A secret and where it came from. Never shown.
#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) secret: String,
    /// The variable or file, for messages.
    pub(crate) origin: String,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(from {})", self.origin)
    }
}

impl Settings {
    /// Reads the variables, and the token's file where no variable holds it.
    ///
    /// # Errors
    /// [`HubError::BadEnvironment`] for an address, proxy or token that cannot be used, and where nothing says
    /// where the cache lies.
    pub(crate) fn from_env(get: Variables<'_>) -> Result<Self, HubError> {
        // A variable that is set but empty counts as not set.
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let home = get("HOME").map(PathBuf::from);
        let path = |name: &str| get(name).map(|value| expand_home(PathBuf::from(value), home.as_deref()));
        let hf_home = path("HF_HOME")
            .or_else(|| path("XDG_CACHE_HOME").map(|folder| folder.join("huggingface")))
            .or_else(|| home.as_ref().map(|home| home.join(".cache/huggingface")));
        let cache = path("HF_HUB_CACHE")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| hf_home.as_ref().map(|folder| folder.join("hub")))
            .ok_or_else(|| {
                bad("HF_HOME", "neither it nor HOME is set, so there is no place for the cache")
            })?;
        let endpoint = match get("HF_ENDPOINT") {
            Some(value) => checked_endpoint(&text("HF_ENDPOINT", value)?)?,
            None => DEFAULT_ENDPOINT.to_owned(),
        };
        let is_on = |name: &str| {
            let value = get(name).map(|value| value.to_string_lossy().to_ascii_uppercase());
            value.is_some_and(|value| ["1", "ON", "YES", "TRUE"].contains(&value.as_str()))
        };
        let token_file =
            path("HF_TOKEN_PATH").or_else(|| hf_home.as_ref().map(|folder| folder.join("token")));
        Ok(Self {
            cache,
            is_offline: is_on("HF_HUB_OFFLINE"),
            token: find_token(get("HF_TOKEN"), token_file.as_deref())?,
            proxy: find_proxy(&endpoint, &get)?,
            certificates: ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]
                .into_iter()
                .find_map(|name| path(name).map(|file| (name, file))),
            endpoint,
        })
    }
}

impl Settings {
    /// Whom to trust for TLS: those in the file that the environment names, otherwise those of the public web.
    ///
    /// # Errors
    /// [`HubError::BadEnvironment`] for a file without a certificate.
    pub(crate) fn root_certificates(&self) -> Result<RootCerts, HubError> {
        let Some((name, file)) = &self.certificates else { return Ok(RootCerts::WebPki) };
        let pem =
            std::fs::read(file).map_err(|e| bad(name, format!("cannot read {}: {e}", file.display())))?;
        let certificate = |item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        };
        let found: Vec<Certificate<'static>> = parse_pem(&pem).filter_map(certificate).collect();
        if found.is_empty() {
            return Err(bad(name, format!("there is no PEM certificate in {}", file.display())));
        }
        Ok(RootCerts::new_with_certs(&found))
    }
}

fn bad(variable: &str, reason: impl Into<String>) -> HubError {
    HubError::BadEnvironment { variable: variable.to_owned(), reason: reason.into() }
}

fn text(variable: &str, value: OsString) -> Result<String, HubError> {
    value.into_string().map_err(|_| bad(variable, "it is not UTF-8"))
}

/// `~` and `~/…`, as Python's `expanduser` does.
fn expand_home(path: PathBuf, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path,
    }
}

fn checked_endpoint(value: &str) -> Result<String, HubError> {
    let value = value.trim().trim_end_matches('/');
    let is_address = value.parse::<Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some() && uri.query().is_none()
    });
    if is_address {
        Ok(value.to_owned())
    } else {
        Err(bad("HF_ENDPOINT", format!("'{value}' is no address such as {DEFAULT_ENDPOINT}")))
    }
}

fn find_token(variable: Option<OsString>, file: Option<&Path>) -> Result<Option<Token>, HubError> {
    let (secret, origin) = match (variable, file) {
        (Some(value), _) => (text("HF_TOKEN", value)?, "HF_TOKEN".to_owned()),
        // A token that cannot be read is no token: most models need none.
        (None, Some(file)) => (std::fs::read_to_string(file).unwrap_or_default(), file.display().to_string()),
        (None, None) => return Ok(None),
    };
    let secret = secret.trim().to_owned();
    if secret.is_empty() {
        return Ok(None);
    }
    // Anything else would not go into a header.
    if !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(bad(&origin, "a token is one line of letters, digits and '_'"));
    }
    Ok(Some(Token { secret, origin }))
}

/// The proxy for the endpoint. Files that the hub keeps elsewhere are fetched through the same one.
fn find_proxy(
    endpoint: &str,
    get: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Option<ureq::Proxy>, HubError> {
    let names = if endpoint.starts_with("https:") {
        ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]
    } else {
        ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]
    };
    let Some((name, value)) = names.iter().find_map(|name| get(name).map(|value| (*name, value))) else {
        return Ok(None);
    };
    // The value may hold a password, so the message does not.
    let broken = || bad(name, "it is no address of an HTTP proxy such as http://proxy.example:3128");
    let parsed = ureq::Proxy::new(&text(name, value)?).map_err(|_| broken())?;
    if !matches!(parsed.protocol(), ureq::ProxyProtocol::Http | ureq::ProxyProtocol::Https) {
        return Err(broken());
    }
    let mut proxy = ureq::Proxy::builder(parsed.protocol()).host(parsed.host()).port(parsed.port());
    if let Some(username) = parsed.username() {
        proxy = proxy.username(username);
    }
    if let Some(password) = parsed.password() {
        proxy = proxy.password(password);
    }
    let exceptions = get("NO_PROXY").or_else(|| get("no_proxy")).unwrap_or_default();
    for host in exceptions.to_string_lossy().split(',').map(str::trim).filter(|host| !host.is_empty()) {
        proxy = proxy.no_proxy(host);
    }
    proxy.build().map(Some).map_err(|_| broken())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<Settings, HubError> {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        Settings::from_env(&find)
    }

    #[test]
    fn the_cache_lies_where_huggingface_hub_has_it() {
        let check = |variables: &[(&str, &str)], expect: &str| {
            assert_eq!(settings(variables).unwrap().cache, Path::new(expect), "{variables:?}");
        };
        check(&[("HOME", "/h")], "/h/.cache/huggingface/hub");
        check(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub");
        check(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/f")], "/f/hub");
        check(&[("HOME", "/h"), ("HF_HOME", "~/f")], "/h/f/hub");
        check(&[("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")], "/c");
        check(&[("HOME", "/h"), ("HF_HOME", "")], "/h/.cache/huggingface/hub");
        assert!(matches!(settings(&[]), Err(HubError::BadEnvironment { .. })));
    }

    #[test]
    fn offline_has_four_spellings() {
        let check = |value: &str, expect: bool| {
            assert_eq!(settings(&[("HOME", "/h"), ("HF_HUB_OFFLINE", value)]).unwrap().is_offline, expect);
        };
        for value in ["1", "true", "Yes", "ON"] {
            check(value, true);
        }
        for value in ["0", "false", "", "2"] {
            check(value, false);
        }
    }

    #[test]
    fn the_token_comes_from_the_variable_or_a_file_and_is_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        let token = |variables: &[(&str, &str)]| settings(variables).unwrap().token.map(|token| token.secret);
        assert_eq!(token(&[("HF_HOME", home)]), None);
        std::fs::write(folder.path().join("token"), "hf_file\n").unwrap();
        assert_eq!(token(&[("HF_HOME", home)]).as_deref(), Some("hf_file"));
        assert_eq!(token(&[("HF_HOME", home), ("HF_TOKEN", " hf_env ")]).as_deref(), Some("hf_env"));
        let other = folder.path().join("other");
        std::fs::write(&other, "hf_other").unwrap();
        let variables = [("HF_HOME", home), ("HF_TOKEN_PATH", other.to_str().unwrap())];
        assert_eq!(token(&variables).as_deref(), Some("hf_other"));
        let settings = settings(&[("HF_HOME", home), ("HF_TOKEN", "hf_secret")]).unwrap();
        assert!(!format!("{settings:?}").contains("hf_secret"));
    }

    #[test]
    fn what_cannot_be_used_is_refused_without_showing_secrets() {
        let check = |name: &str, value: &str| {
            let error = settings(&[("HOME", "/h"), (name, value)]).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
            assert!(!error.contains("secret"), "{error}");
        };
        check("HF_ENDPOINT", "hub.example");
        check("HF_ENDPOINT", "ftp://hub.example");
        check("HF_TOKEN", "hf_secret\nX-Header: 1");
        check("HTTPS_PROXY", "nonsense://user:secret@host");
        check("HTTPS_PROXY", "socks5://user:secret@host:1");
    }

    #[test]
    fn certificates_are_those_of_the_public_web_or_of_a_file() {
        let load = |variables: &[(&str, &str)]| settings(variables).unwrap().root_certificates();
        let home = ("HOME", "/h");
        assert!(matches!(load(&[home]), Ok(RootCerts::WebPki)));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("certificates.pem");
        let path = file.to_str().unwrap();
        std::fs::write(&file, "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n").unwrap();
        assert!(
            matches!(load(&[home, ("SSL_CERT_FILE", path)]), Ok(RootCerts::Specific(found)) if found.len() == 1)
        );
        for (name, path) in [("SSL_CERT_FILE", "/nowhere/at/all.pem"), ("REQUESTS_CA_BUNDLE", "/dev/null")] {
            let error = load(&[home, (name, path)]).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(path), "{error}");
        }
    }

    #[test]
    fn proxies_and_their_exceptions() {
        let home = ("HOME", "/h");
        let proxy = ("HTTPS_PROXY", "http://u:p@proxy.example:3128");
        let found = settings(&[home, proxy, ("NO_PROXY", "localhost, 10.0.0.1")]).unwrap().proxy.unwrap();
        assert_eq!((found.host(), found.port(), found.username()), ("proxy.example", 3128, Some("u")));
        assert!(found.is_no_proxy(&"http://10.0.0.1/x".parse().unwrap()));
        assert!(!found.is_no_proxy(&"https://huggingface.co/x".parse().unwrap()));
        assert!(settings(&[home, proxy, ("HF_ENDPOINT", "http://hub.example/")]).unwrap().proxy.is_none());
    }
}
