//! What is said where there is no GPU: loudly, since nothing that was asked for has been checked.

use std::io::Write;

use super::machine::Machine;

const WIDTH: usize = 100;

/// Writes the banner to standard error.
pub fn print(machine: &Machine) {
    let _ = std::io::stderr().lock().write_all(text(machine).as_bytes());
}

fn text(machine: &Machine) -> String {
    let path = |path: &Option<std::path::PathBuf>, missing: &str| match path {
        Some(path) => path.display().to_string(),
        None => missing.to_owned(),
    };
    let folder = path(&machine.libtorch_folder, "libtorch's folder, which is unknown");
    let mut lines = vec![
        "NO GPU. NOTHING WAS CHECKED ON A GPU, AND NOTHING IS PROVED BY THIS RUN.".to_owned(),
        String::new(),
        format!("LOOKED FOR A DRIVER:      {}", machine.driver().unwrap_or_else(|| "NONE FOUND".to_owned())),
        "LOOKED FOR GPUS:          NONE FOUND".to_owned(),
        format!("LOOKED FOR LIBTORCH_CUDA: {}", path(&machine.libtorch_cuda, &format!("NOT IN {folder}"))),
        format!(
            "LOOKED FOR NVRTC:         {}",
            path(
                &machine.nvrtc,
                "NOT FOUND BESIDE LIBTORCH, IN LD_LIBRARY_PATH, IN /usr/local/cuda OR IN THE SYSTEM"
            )
        ),
        format!("LOOKED FOR NCCL:          {}", machine.nccl().unwrap_or_else(|| "NONE FOUND".to_owned())),
    ];
    if machine.doctor.is_null() {
        lines.push("DOCTOR ITSELF FAILED: ITS WORDS ARE IN THE REPORT".to_owned());
    }
    for (what, hint) in machine.missing() {
        lines.extend([String::new(), format!("MISSING: {what}"), format!("hint: {hint}")]);
    }
    lines.extend([String::new(), "TO CHECK THE CPU INSTEAD: gpart-dist gpu-check --device cpu".to_owned()]);
    let rule = "!".repeat(WIDTH);
    let options = textwrap::Options::new(WIDTH).initial_indent("!!  ").subsequent_indent("!!      ");
    let body: Vec<String> =
        lines.iter().map(|line| textwrap::fill(line, &options).trim_end().to_owned()).collect();
    let body: Vec<String> =
        body.into_iter().map(|line| if line.is_empty() { "!!".to_owned() } else { line }).collect();
    format!("{rule}\n{}\n{rule}\n", body.join("\n"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let missing =
            json!([{ "what": "no NVIDIA driver: libcuda.so.1 is not found", "hint": "install the driver" }]);
        let doctor = json!({ "ranks": [{ "accelerators": { "gpus": [], "missing": missing } }] });
        let text = text(&Machine { doctor, ..Machine::default() });
        for part in ["NO GPU", "DRIVER", "LIBTORCH_CUDA", "NVRTC", "NCCL", "libcuda.so.1", "--device cpu"] {
            assert!(text.contains(part), "no {part} in\n{text}");
        }
        assert!(text.lines().all(|line| line.starts_with("!!")), "{text}");
        assert!(text.lines().count() > 8);
    }
}
