//! Encryption: what is refused without it, and who is trusted with it.

use std::path::Path;

use crate::common::{link, start, step, until};
use control_plane::{
    Client, ControlError, Coordinator, CoordinatorOptions, Endpoint, LinkState, MetricsOptions, TlsPolicy,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

fn options(tls: TlsPolicy) -> CoordinatorOptions {
    CoordinatorOptions { tls, ..CoordinatorOptions::new("test", 1) }
}

#[track_caller]
fn assert_serves(coordinator: &Coordinator, endpoint: &Endpoint) {
    let rank = link(endpoint, 0, 1);
    rank.step(step(1));
    let mut client = Client::connect(endpoint).expect("a client");
    until("the step", || client.status().expect("a status").step == 1);
    assert_eq!(rank.state(), LinkState::Connected);
    assert_eq!(coordinator.status().ranks.len(), 1);
}

#[test]
fn a_certificate_made_at_start_is_pinned() {
    let coordinator = Coordinator::start(options(TlsPolicy::MadeAtStart)).expect("a coordinator");
    let variables = coordinator.endpoint().to_env();
    assert!(variables.iter().all(|(_, value)| !value.contains('\n')), "a launcher hands on single lines");
    let endpoint = Endpoint::from_variables(|name| {
        variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| value.clone())
    });
    let endpoint = endpoint.expect("variables that fit").expect("an endpoint");
    assert_serves(&coordinator, &endpoint);

    let other = Coordinator::start(options(TlsPolicy::MadeAtStart)).expect("a coordinator");
    let wrong = Endpoint { certificate: other.endpoint().certificate.clone(), ..endpoint.clone() };
    let error = Client::connect(&wrong).err().expect("another certificate");
    assert!(matches!(error, ControlError::Tls { .. }), "{error:?}");

    let rank = link(&wrong, 0, 1);
    until("the link to notice", || matches!(rank.state(), LinkState::Lost { .. }));
    let plain = Endpoint { certificate: None, ..endpoint };
    let error = Client::connect(&plain).err().expect("no encryption");
    assert!(
        matches!(error, ControlError::Unreachable { .. } | ControlError::NotACoordinator { .. }),
        "{error:?}"
    );
    let expects_tls =
        Endpoint { certificate: other.endpoint().certificate.clone(), ..start(1).endpoint().clone() };
    assert!(Client::connect(&expects_tls).is_err());
}

#[test]
fn other_hosts_are_served_with_tls_alone() {
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let open = CoordinatorOptions { listen: listen.into(), ..options(TlsPolicy::Off) };
        let error = Coordinator::start(open).err().expect("no TLS");
        assert!(matches!(error, ControlError::WithoutTls { .. }), "{error:?}");
    }
    let open = CoordinatorOptions {
        listen: "0.0.0.0:0".into(),
        advertise: Some("localhost".into()),
        ..options(TlsPolicy::MadeAtStart)
    };
    let coordinator = Coordinator::start(open).expect("a coordinator");
    assert!(coordinator.endpoint().address.starts_with("localhost:"));
    assert_serves(&coordinator, &coordinator.endpoint().clone());
}

#[test]
fn metrics_are_public_only_where_that_was_said() {
    let with = |listen: &str, public| CoordinatorOptions {
        metrics: Some(MetricsOptions { listen: listen.into(), public }),
        ..options(TlsPolicy::Off)
    };
    let error = Coordinator::start(with("0.0.0.0:0", false)).err().expect("not said");
    assert!(matches!(error, ControlError::PublicMetrics { .. }), "{error:?}");
    assert!(Coordinator::start(with("0.0.0.0:0", true)).is_ok());
}

/// An authority and a certificate for 127.0.0.1 of it, as files: authority, certificate, key.
fn make_files(folder: &Path) -> TlsPolicy {
    let authority_key = KeyPair::generate().expect("a key");
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_pem = authority.self_signed(&authority_key).expect("signed").pem();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().expect("a key");
    let certificate = CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
    let certificate = certificate.signed_by(&key, &issuer).expect("signed").pem();
    let file = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    TlsPolicy::Files {
        certificate: file("certificate.pem", certificate),
        key: file("key.pem", key.serialize_pem()),
        authority: file("authority.pem", authority_pem),
    }
}

#[test]
fn a_certificate_of_ones_own_is_served() {
    let folder = tempfile::tempdir().expect("a folder");
    let policy = make_files(folder.path());
    let coordinator = Coordinator::start(options(policy.clone())).expect("a coordinator");
    assert_serves(&coordinator, &coordinator.endpoint().clone());

    let TlsPolicy::Files { certificate, key, authority } = policy else { panic!("files") };
    let refused = |certificate: &Path, key: &Path, authority: &Path| {
        let files = TlsPolicy::Files {
            certificate: certificate.into(),
            key: key.into(),
            authority: authority.into(),
        };
        let error = Coordinator::start(options(files)).err().expect("files that do not fit");
        assert!(matches!(error, ControlError::Certificate { .. }), "{error:?}");
    };
    refused(Path::new("/nowhere.pem"), &key, &authority);
    refused(&certificate, &authority, &authority);
    let other = tempfile::tempdir().expect("a folder");
    make_files(other.path());
    refused(&certificate, &other.path().join("key.pem"), &authority);
}
