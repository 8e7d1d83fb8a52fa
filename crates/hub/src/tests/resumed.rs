//! Transfers that break, and bytes that are not those that they should be.

use std::fs;

use super::*;
use crate::testing::Fault;

fn ranges(bench: &Bench) -> Vec<Option<String>> {
    let asked = bench.server.requests_for("GET", "/resolve/");
    asked.into_iter().filter(|request| request.path.contains("model.safetensors")).map(|r| r.range).collect()
}

fn assert_whole(bench: &Bench, folder: &Path) {
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
    assert!(!bench.incomplete().exists());
}

fn store_path() -> String {
    crate::testing::checksum("model.safetensors", &weights())
}

#[test]
fn a_cut_connection_is_taken_up_where_it_was_cut() {
    let bench = Bench::with_model();
    bench.server.fail(&store_path(), 1, Fault::CutAfter(100_000));
    let mut retries = Vec::new();
    let folder = bench.hub().model(ID, None, Want::Everything, &mut |event| {
        if let Event::Retry { reason, .. } = event {
            retries.push(reason.to_owned());
        }
    });
    assert_whole(&bench, &folder.unwrap());
    assert_eq!(ranges(&bench), [None, Some("bytes=100000-".to_owned())]);
    assert_eq!(retries.len(), 1);
    assert!(retries[0].contains("model.safetensors broke after 100000 of 300000 bytes"), "{retries:?}");
    // The range is the store's to answer, so it has to reach it.
    let stored: Vec<_> = bench.server.requests().into_iter().filter(|request| request.is_store).collect();
    assert_eq!(stored[1].range.as_deref(), Some("bytes=100000-"));
}

#[test]
fn a_connection_that_stalls_is_given_up_and_taken_up() {
    let bench = Bench::with_model();
    bench.server.fail(&store_path(), 1, Fault::StallAfter(50_000));
    assert_whole(&bench, &bench.model().unwrap());
    assert_eq!(ranges(&bench), [None, Some("bytes=50000-".to_owned())]);
}

#[test]
fn a_download_that_ended_for_good_is_taken_up_by_the_next_call() {
    let bench = Bench::with_model();
    bench.server.fail(&store_path(), 3, Fault::CutAfter(1_000));
    let error = bench.model().unwrap_err();
    let parts =
        ["[run::hub_interrupted]", "after 3000 of 300000 bytes, 3 times", "run the same command again"];
    assert_told(&error, &parts);
    assert_eq!(fs::read(bench.incomplete()).unwrap(), &weights()[..3_000]);
    assert!(!bench.repo_folder().join("refs/main").exists());
    assert_whole(&bench, &bench.model().unwrap());
    assert_eq!(ranges(&bench).last().unwrap().as_deref(), Some("bytes=3000-"));
}

#[test]
fn a_server_without_ranges_sends_it_all_again() {
    let bench = Bench::with_model();
    bench.server.fail(&store_path(), 1, Fault::CutAfter(100_000));
    bench.server.fail(&store_path(), 1, Fault::IgnoreRange);
    assert_whole(&bench, &bench.model().unwrap());
    assert_eq!(ranges(&bench).len(), 2);
}

#[test]
fn what_was_left_and_does_not_fit_is_thrown_away() {
    let check = |left: &[u8], requests: usize| {
        let bench = Bench::with_model();
        fs::create_dir_all(bench.incomplete().parent().unwrap()).unwrap();
        fs::write(bench.incomplete(), left).unwrap();
        assert_whole(&bench, &bench.model().unwrap());
        assert_eq!(ranges(&bench).len(), requests);
    };
    check(&[9; 1_000], 2);
    check(&[9; 300_000], 1);
    check(&[9; 300_001], 1);
    // All there and right: nothing is left to ask for.
    check(&weights(), 0);
    check(&weights()[..299_999], 1);
}

#[test]
fn a_wrong_checksum_is_an_error_and_leaves_nothing() {
    let bench = Bench::with_model();
    bench.server.fail(&store_path(), 1, Fault::Corrupt);
    let error = bench.model().unwrap_err();
    assert_told(
        &error,
        &["[run::hub_checksum]", "model.safetensors", &store_path(), "run the same command again"],
    );
    assert!(!bench.incomplete().exists());
    assert_whole(&bench, &bench.model().unwrap());

    let bench = Bench::with_model();
    bench.server.fail("resolve/0000000000000000000000000000000000000001/config.json", 1, Fault::Corrupt);
    assert_told(&bench.model().unwrap_err(), &["[run::hub_checksum]", "config.json"]);
}

#[test]
fn a_wrong_length_is_an_error() {
    let bench = Bench::with_model();
    bench.server.fail(&store_path(), 9, Fault::Short);
    let error = bench.model().unwrap_err();
    assert_told(&error, &["[run::hub_length]", "model.safetensors should have 300000 bytes", "sends 299999"]);
    for headers in [vec![], vec!["Transfer-Encoding: chunked".to_owned()]] {
        let bench = Bench::with_model();
        let body = "x".repeat(300_001);
        let body = if headers.is_empty() { body } else { format!("493e1\r\n{body}\r\n0\r\n\r\n") };
        bench.server.fail(&store_path(), 9, Fault::Answer(200, headers, body));
        assert_told(&bench.model().unwrap_err(), &["[run::hub_length]", "sends 30"]);
        assert!(std::fs::metadata(bench.incomplete()).unwrap().len() <= 300_000);
    }
}

#[test]
fn a_range_that_was_not_asked_for_is_not_taken() {
    let bench = Bench::with_model();
    bench.server.fail(&store_path(), 1, Fault::CutAfter(100_000));
    let headers = vec!["Content-Range: bytes 0-199999/300000".to_owned()];
    bench.server.fail(&store_path(), 1, Fault::Answer(206, headers, "x".repeat(200_000)));
    assert_whole(&bench, &bench.model().unwrap());
    let expect = [None, Some("bytes=100000-".to_owned()), None];
    assert_eq!(ranges(&bench), expect);
}

#[test]
fn a_full_disk_says_how_much_is_needed() {
    let bench = Bench::with_model();
    let hub = bench.hub().with_options(Options { free_space: |_| Ok(1_000), ..impatient() });
    let error = hub.model(ID, None, Want::Everything, &mut no_progress).unwrap_err();
    let needed = format!("{} bytes are still", 300_000 + CONFIG.len() + 2 + 8);
    assert_told(&error, &["[run::hub_no_space]", &needed, "1000 bytes are free", "HF_HOME"]);
    assert!(bench.server.requests_for("GET", "/resolve/").is_empty());

    // What is there already need not fit once more.
    fs::create_dir_all(bench.incomplete().parent().unwrap()).unwrap();
    fs::write(bench.incomplete(), &weights()[..299_500]).unwrap();
    hub.model(ID, None, Want::Everything, &mut no_progress).unwrap();
}

#[test]
fn a_disk_that_fills_up_meanwhile_is_told_from_other_failures() {
    let bench = Bench::with_model();
    fs::create_dir_all(bench.incomplete().parent().unwrap()).unwrap();
    // A device that has no space for a single byte.
    std::os::unix::fs::symlink("/dev/full", bench.incomplete()).unwrap();
    let error = bench.model().unwrap_err();
    assert_told(&error, &["[run::hub_no_space]", "300000 bytes are still"]);
    assert_eq!(ranges(&bench).len(), 1, "no second attempt");
    fs::remove_file(bench.incomplete()).unwrap();
    assert_whole(&bench, &bench.model().unwrap());
    assert_eq!(bench.server.requests_for("GET", "tokenizer.json").len(), 1, "what was downloaded stays");
}
