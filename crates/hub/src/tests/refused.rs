//! A hub that says no, or nonsense, or nothing.

use super::*;
use crate::testing::Fault;

fn answer(status: u16, headers: &[&str], body: &str) -> Fault {
    Fault::Answer(status, headers.iter().map(|header| (*header).to_owned()).collect(), body.to_owned())
}

/// One answer to every request for the list of files, and what is told.
fn check_listing(fault: Fault, variables: &[(&str, &str)], requests: usize, parts: &[&str]) {
    let bench = Bench::with_model();
    bench.server.fail("/api/", 99, fault);
    let error = bench.hub_with(variables).model(ID, None, Want::Everything, &mut no_progress).unwrap_err();
    assert_told(&error, parts);
    assert!(!told(&error).contains("hf_secret"));
    assert_eq!(bench.server.requests().len(), requests, "{error}");
}

#[test]
fn gated_says_where_to_accept_the_licence() {
    let bench = Bench::with_model();
    bench.server.gate(ID, "hf_right");
    let told = |variables: &[(&str, &str)], parts: &[&str]| {
        let error =
            bench.hub_with(variables).model(ID, None, Want::Everything, &mut no_progress).unwrap_err();
        assert_told(&error, parts);
        assert!(!super::told(&error).contains("hf_wrong"));
    };
    let link = "https://huggingface.co/owner/tiny";
    told(&[], &["[input::hub_gated]", "owner/tiny is gated", link, "set HF_TOKEN"]);
    told(
        &[("HF_TOKEN", "hf_wrong")],
        &["[input::hub_gated]", link, "token from HF_TOKEN is not on the list"],
    );
    let requests = bench.server.requests_for("GET", "/resolve/");
    assert_eq!(requests.len(), 2, "a refusal is not tried again");

    // The list of files can be gated as well, and the code can be missing.
    let parts = ["[input::hub_gated]", link];
    check_listing(answer(403, &["X-Error-Code: GatedRepo"], "{}"), &[], 1, &parts);
    check_listing(answer(403, &[], r#"{"error": "Access to gated repo owner/tiny"}"#), &[], 1, &parts);
}

#[test]
fn refusals_by_their_kind() {
    let secret = [("HF_TOKEN", "hf_secret")];
    let bad = answer(401, &["X-Error-Message: Invalid credentials in Authorization header"], "");
    let parts = ["[input::hub_token]", "token from HF_TOKEN", "Invalid credentials", "settings/tokens"];
    check_listing(bad, &secret, 1, &parts);
    let missing = ["[input::hub_not_found]", "no model owner/tiny on http://127.0.0.1", "private"];
    check_listing(answer(401, &[], "Invalid username or password."), &[], 1, &missing);
    check_listing(answer(401, &["X-Error-Code: RepoNotFound"], ""), &secret, 1, &missing);
    check_listing(answer(404, &["X-Error-Code: RepoNotFound"], ""), &[], 1, &missing);
    check_listing(answer(404, &[], "<html>"), &[], 1, &missing);
    let forbidden = answer(403, &[], r#"{"error": "fine-grained token lacks\n permissions"}"#);
    let parts = ["[input::hub_forbidden]", "fine-grained token lacks permissions", "/api/models/owner/tiny"];
    check_listing(forbidden, &secret, 1, &parts);
    check_listing(answer(418, &[], "teapot"), &[], 1, &["[run::hub_status]", "418 after 1 attempts: teapot"]);
}

#[test]
fn names_that_the_hub_does_not_have() {
    let bench = Bench::with_model();
    let hub = bench.hub();
    let model = |id: &str, revision| hub.model(id, revision, Want::Everything, &mut no_progress).unwrap_err();
    assert_told(&model("owner/other", None), &["[input::hub_not_found]", "no model owner/other"]);
    assert_told(&model(ID, Some("v9")), &["[input::hub_revision]", "no revision 'v9'"]);
    let dataset = hub.dataset("owner/tiny", None, &mut no_progress).unwrap_err();
    assert_told(&dataset, &["[input::hub_not_found]", "no dataset owner/tiny"]);
    let requests = bench.server.requests().len();
    assert_told(&model("../etc", None), &["[input::hub_name]", "'../etc' is no name of a model"]);
    assert_told(&model(ID, Some("../x")), &["[input::hub_name]", "'../x' is no revision"]);
    assert_eq!(bench.server.requests().len(), requests);
    // A file that was listed and went.
    bench.server.fail("tokenizer.json", 1, answer(404, &["X-Error-Code: EntryNotFound"], ""));
    assert_told(&model(ID, None), &["[input::hub_file_not_found]", "'tokenizer.json'"]);
}

#[test]
fn trouble_that_passes_is_waited_for() {
    for path in ["/api/", "config.json", "model.safetensors"] {
        for status in [500, 502, 503, 504, 429, 408] {
            let bench = Bench::with_model();
            bench.server.fail(path, 2, answer(status, &["Retry-After: 9999"], "busy"));
            bench.model().unwrap();
        }
    }
}

#[test]
fn trouble_that_stays_ends_after_some_attempts() {
    let parts = ["[run::hub_status]", "500 after 3 attempts: Internal Error", "What was downloaded is kept"];
    check_listing(answer(500, &[], r#"{"error": "Internal Error"}"#), &[], 3, &parts);
    let bench = Bench::with_model();
    bench.server.fail("model.safetensors", 99, answer(503, &[], ""));
    assert_told(&bench.model().unwrap_err(), &["503 after 3 attempts: no reason is given"]);
    assert_eq!(bench.server.requests_for("GET", "model.safetensors").len(), 3);
}

#[test]
fn nonsense_is_not_taken_for_a_list() {
    let parts = ["[run::hub_garbage]", "/api/models/owner/tiny/revision/main", "HF_ENDPOINT"];
    for body in ["<html>log in</html>", "", "{}", "[]", "{\"sha\": 5}", "{\"sha\": \"../../..\"}", "\u{0}"] {
        check_listing(answer(200, &[], body), &[], 1, &parts);
    }
    let deep = "[".repeat(100_000);
    check_listing(answer(200, &[], &deep), &[], 1, &parts);
    let bench = Bench::with_model();
    bench.server.hide_sizes(ID);
    bench.server.fail("config.json", 99, answer(200, &["ETag: \"../../x\""], "x"));
    assert_told(&bench.model().unwrap_err(), &["[run::hub_garbage]", "no size and checksum"]);
    // Not the commit that was asked for.
    let other = "f".repeat(40);
    let bench = Bench::with_model();
    let body = format!("{{\"sha\": \"{}\"}}", "e".repeat(40));
    bench.server.fail("/api/", 1, answer(200, &[], &body));
    let error = bench.hub().model(ID, Some(&other), Want::Everything, &mut no_progress).unwrap_err();
    assert_told(&error, &["[run::hub_garbage]", "another commit was asked for"]);
}

#[test]
fn redirects_that_lead_nowhere() {
    let parts = ["[run::hub_garbage]", "redirect"];
    for target in ["file:///etc/passwd", "", "gopher://x/", "/api/round/in/circles"] {
        let location = format!("Location: {target}");
        let requests = if target.starts_with("/api") { 11 } else { 1 };
        check_listing(answer(302, &[&location], ""), &[], requests, &parts);
    }
}

#[test]
fn a_repository_that_was_renamed_is_followed() {
    let bench = Bench::with_model();
    let id = "old/name";
    let location = format!("Location: /api/models/{ID}/revision/main?blobs=true");
    bench.server.fail("old/name", 1, answer(307, &[&location], ""));
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"] {
        let location = format!("Location: /{ID}/resolve/main/{file}");
        bench.server.fail(&format!("/{file}"), 1, answer(307, &[&location], ""));
    }
    let hub = bench.hub_with(&[("HF_TOKEN", "hf_t")]);
    let folder = hub.model(id, None, Want::Everything, &mut no_progress).unwrap();
    assert_eq!(tree(&folder).len(), 4);
    let hub_requests = bench.server.requests().into_iter().filter(|request| !request.is_store);
    assert!(hub_requests.into_iter().all(|request| request.authorization.is_some()));
}

#[test]
fn nobody_there() {
    let home = tempfile::tempdir().unwrap();
    let model = |endpoint: &str| {
        let hub = hub(endpoint, home.path(), &[]);
        hub.model(ID, None, Want::Everything, &mut no_progress).unwrap_err()
    };
    let free_port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let parts = ["[run::hub_unreachable]", "after 3 attempts", "efused", "hf download"];
    assert_told(&model(&format!("http://{free_port}")), &parts);
    assert_told(&model("http://hub.invalid"), &["[run::hub_unreachable]", "http://hub.invalid/api"]);
}

#[test]
fn a_proxy_is_used_and_its_password_not_shown() {
    let bench = Bench::with_model();
    let free_port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy = format!("http://user:hf_secret@{free_port}");
    let hub = bench.hub_with(&[("HTTP_PROXY", &proxy)]);
    let error = hub.model(ID, None, Want::Everything, &mut no_progress).unwrap_err();
    assert_told(&error, &["[run::hub_unreachable]", "HTTPS_PROXY"]);
    assert!(!told(&error).contains("hf_secret"));
    assert!(bench.server.requests().is_empty());
    let hub = bench.hub_with(&[("HTTP_PROXY", &proxy), ("NO_PROXY", "127.0.0.1")]);
    hub.model(ID, None, Want::Everything, &mut no_progress).unwrap();
}

/// One connection of a proxy: the first line asks for a tunnel, then bytes go both ways. Returns the head.
fn tunnel(client: std::net::TcpStream) -> String {
    use std::io::{BufRead, BufReader, Write};
    let mut reader = BufReader::new(client.try_clone().unwrap());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0);
    }
    let target = head.strip_prefix("CONNECT ").unwrap().split(' ').next().unwrap();
    let server = std::net::TcpStream::connect(target).unwrap();
    (&client).write_all(b"HTTP/1.1 200 Connected\r\n\r\n").unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| std::io::copy(&mut reader, &mut &server));
        let _ = std::io::copy(&mut &server, &mut &client);
        let _ = client.shutdown(std::net::Shutdown::Both);
    });
    head
}

#[test]
fn a_proxy_carries_everything() {
    let bench = Bench::with_model();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = format!("http://user:pass@{}", listener.local_addr().unwrap());
    let hub = bench.hub_with(&[("http_proxy", &proxy), ("NO_PROXY", "other.example")]);
    let heads = std::thread::spawn(move || {
        // The list, three small files, the weights' address and the weights.
        (0..6).map(|_| tunnel(listener.accept().unwrap().0)).collect::<Vec<String>>()
    });
    hub.model(ID, None, Want::Everything, &mut no_progress).unwrap();
    let heads = heads.join().unwrap();
    assert!(heads.iter().all(|head| head.to_lowercase().contains("proxy-authorization: basic dxnlcjpwyxnz")));
    assert!(!format!("{hub:?}").contains("pass"), "{hub:?}");
}

#[test]
fn names_of_files_never_lead_out_of_the_snapshot() {
    for name in ["../../../../escaped.safetensors", "/tmp/escaped.safetensors", "a\\..\\escaped.safetensors"]
    {
        let bench = Bench::new();
        let index = serde_json::json!({ "weight_map": { "a": name } }).to_string();
        let files: [(&str, &[u8]); 3] =
            [("config.json", CONFIG), (name, b"evil"), ("model.safetensors.index.json", index.as_bytes())];
        bench.server.put_model(ID, &files);
        let before =
            tree(bench.home.path().parent().unwrap()).iter().filter(|n| n.contains("escaped")).count();
        let error = bench.model().unwrap_err();
        assert_told(&error, &["[run::hub_file_name]", "escaped.safetensors"]);
        assert!(bench.server.requests().iter().all(|request| !request.path.contains("escaped")));
        let after =
            tree(bench.home.path().parent().unwrap()).iter().filter(|n| n.contains("escaped")).count();
        assert_eq!(before, after);
    }
    for name in ["/etc/train.jsonl", "a\\..\\train.jsonl", "a//train.jsonl"] {
        let bench = Bench::new();
        bench.server.put_dataset("o/d", &[(name, b"{}")]);
        let error = bench.hub().dataset("o/d", None, &mut no_progress).unwrap_err();
        assert_told(&error, &["[run::hub_file_name]"]);
    }
}

#[test]
fn repositories_without_what_is_wanted() {
    let bench = Bench::new();
    let model = |files: &[(&str, &[u8])]| {
        bench.server.put_model(ID, files);
        bench.model().unwrap_err()
    };
    assert_told(
        &model(&[("README.md", b"x")]),
        &["[input::hub_no_model]", "no config.json; it has README.md"],
    );
    let error = model(&[("config.json", CONFIG), ("pytorch_model.bin", b"x")]);
    assert_told(&error, &["no model.safetensors or", "pytorch_model.bin", "save_pretrained"]);
    let index = br#"{"weight_map": {"a": "model-1.safetensors"}}"#;
    let error = model(&[("config.json", CONFIG), ("model.safetensors.index.json", index)]);
    assert_told(&error, &["[input::hub_file_not_found]", "'model-1.safetensors'"]);
    let error = model(&[("config.json", CONFIG), ("model.safetensors.index.json", b"nonsense")]);
    assert_told(&error, &["[run::hub_garbage]", "no index of weights"]);
    let dataset = |files: &[(&str, &[u8])]| {
        bench.server.put_dataset("o/d", files);
        bench.hub().dataset("o/d", None, &mut no_progress).unwrap_err()
    };
    let error = dataset(&[("README.md", b"x"), ("train.csv", b"x")]);
    assert_told(&error, &["[input::hub_no_data]", "README.md, train.csv", "--repo-type dataset o/d"]);
    let error = dataset(&[("en/train.json", b"x"), ("de/train.json", b"x")]);
    assert_told(&error, &["[input::hub_several_data]", "de, en"]);
}
