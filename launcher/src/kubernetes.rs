//! Manifests for Kubernetes with the MPI operator.

use std::io::Write;

use serde::Serialize;

use crate::args::KubernetesArgs;
use crate::error::LaunchError;
use crate::program;
use crate::templates::{fill, value, yaml};

const MANIFEST: &str = include_str!("../templates/mpijob.yaml");
const DOCKERFILE: &str = include_str!("../templates/Dockerfile");
/// Where the operator puts the list of workers.
const HOSTFILE: &str = "/etc/mpi/hostfile";

/// Values of the manifest, quoted for YAML.
#[derive(Serialize)]
struct Values {
    name: String,
    namespace: Option<String>,
    image: String,
    workers: usize,
    ranks_per_worker: usize,
    resources: Vec<(String, String)>,
    create_claim: bool,
    claim: String,
    storage: String,
    storage_class: Option<String>,
    mount: String,
    backoff_limit: u32,
    grace_seconds: u32,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
}

/// Prints a manifest or a Dockerfile.
pub fn run(args: &KubernetesArgs) -> Result<(), LaunchError> {
    let text = if args.dockerfile { dockerfile()? } else { manifest(args)? };
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn dockerfile() -> Result<String, LaunchError> {
    #[derive(Serialize)]
    struct Values {
        rust_version: &'static str,
    }
    fill("Dockerfile", DOCKERFILE, Values { rust_version: env!("CARGO_PKG_RUST_VERSION") })
}

fn manifest(args: &KubernetesArgs) -> Result<String, LaunchError> {
    program::check_trains(&args.command)?;
    let image = args.image.clone().unwrap_or_default();
    let claim = args.claim.clone().unwrap_or_else(|| format!("{}-run", args.name));
    let names =
        [("--name", Some(&args.name)), ("--namespace", args.namespace.as_ref()), ("--claim", Some(&claim))];
    for (flag, name) in names {
        name.map_or(Ok(()), |name| check_name(flag, name))?;
    }
    if !args.mount.starts_with('/') {
        return Err(value("--mount", &args.mount, "it is an absolute path in the pods"));
    }
    let gpus = Some(args.gpus_per_worker).filter(|gpus| *gpus > 0).map(|gpus| gpus.to_string());
    let resources = [("nvidia.com/gpu", &gpus), ("cpu", &args.cpus), ("memory", &args.memory)];
    let given = resources.into_iter().filter_map(|(name, amount)| Some((yaml(name), yaml(amount.as_ref()?))));
    let words = ["--hostfile", HOSTFILE, "--"].into_iter().chain(args.command.iter().map(String::as_str));
    let values = Values {
        name: yaml(&args.name),
        namespace: args.namespace.as_deref().map(yaml),
        image: yaml(&image),
        workers: args.workers,
        ranks_per_worker: args.ranks_per_worker.unwrap_or(args.gpus_per_worker.max(1)),
        resources: given.collect(),
        create_claim: args.claim.is_none(),
        claim: yaml(&claim),
        storage: yaml(&args.storage),
        storage_class: args.storage_class.as_deref().map(yaml),
        mount: yaml(&args.mount),
        backoff_limit: args.backoff_limit,
        grace_seconds: args.grace_seconds,
        // Kubernetes replaces $(NAME) in arguments; $$ stands for one $.
        arguments: words.map(|word| yaml(&word.replace('$', "$$"))).collect(),
        // Models are downloaded once, to where all pods see them.
        variables: vec![(
            yaml("HF_HOME"),
            yaml(&format!("{}/huggingface", args.mount.trim_end_matches('/'))),
        )],
    };
    fill("mpijob.yaml", MANIFEST, values)
}

/// What Kubernetes takes for a name (RFC 1123).
fn check_name(flag: &str, name: &str) -> Result<(), LaunchError> {
    let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let is_name = name.len() <= 63 && name.chars().all(is_inner);
    match is_name && is_outer(name.chars().next()) && is_outer(name.chars().last()) {
        true => Ok(()),
        false => Err(value(flag, name, "small letters, digits and - are allowed, at most 63")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_norway::Value;

    use super::*;
    use crate::args::{Cli, Instead};
    use crate::templates::check_snapshot;

    fn made(words: &[&str]) -> Result<String, LaunchError> {
        let words = ["gpart-launch", "kubernetes", "--image=registry/gpart:1"].iter().chain(words);
        let cli = Cli::try_parse_from(words).unwrap();
        let Some(Instead::Kubernetes(args)) = cli.instead else { panic!("not kubernetes") };
        manifest(&args)
    }

    const FULL: [&str; 14] = [
        "--name=math",
        "--namespace=team-a",
        "--workers=2",
        "--gpus-per-worker=8",
        "--cpus=64",
        "--memory=512Gi",
        "--storage=1Ti",
        "--storage-class=shared",
        "--mount=/data",
        "--",
        "metamath",
        "--model=a: b # c",
        "--sample-prompt",
        "it's\n\"x\" {{ y }} \u{7f}ä $(HOME)",
    ];

    fn documents(text: &str) -> Vec<Value> {
        let documents = serde_norway::Deserializer::from_str(text);
        documents.map(|one| <Value as serde::Deserialize>::deserialize(one).unwrap()).collect()
    }

    type Check = fn(&Value) -> bool;

    /// Fields that the operator documents for MPIJob v2beta1, with what each must be.
    const FIELDS: [(&str, Check); 22] = [
        ("apiVersion", |v| v == "kubeflow.org/v2beta1"),
        ("kind", |v| v == "MPIJob"),
        ("metadata.name", Value::is_string),
        ("spec.mpiImplementation", |v| v == "OpenMPI"),
        ("spec.slotsPerWorker", |v| v.as_u64().is_some_and(|n| n > 0)),
        ("spec.sshAuthMountPath", Value::is_string),
        ("spec.launcherCreationPolicy", |v| v == "WaitForWorkersReady" || v == "AtStartup"),
        ("spec.runPolicy.cleanPodPolicy", |v| v == "Running" || v == "All" || v == "None"),
        ("spec.runPolicy.backoffLimit", Value::is_u64),
        ("spec.mpiReplicaSpecs.Launcher.replicas", |v| v == 1),
        ("spec.mpiReplicaSpecs.Launcher.restartPolicy", |v| v == "OnFailure" || v == "Never"),
        ("spec.mpiReplicaSpecs.Launcher.template.spec.terminationGracePeriodSeconds", Value::is_u64),
        ("spec.mpiReplicaSpecs.Launcher.template.spec.containers", Value::is_sequence),
        ("spec.mpiReplicaSpecs.Launcher.template.spec.volumes", Value::is_sequence),
        ("spec.mpiReplicaSpecs.Launcher.template.spec.containers.0.image", Value::is_string),
        ("spec.mpiReplicaSpecs.Launcher.template.spec.containers.0.args", Value::is_sequence),
        ("spec.mpiReplicaSpecs.Worker.replicas", |v| v.as_u64().is_some_and(|n| n > 0)),
        ("spec.mpiReplicaSpecs.Worker.template.spec.terminationGracePeriodSeconds", Value::is_u64),
        ("spec.mpiReplicaSpecs.Worker.template.spec.containers.0.image", Value::is_string),
        ("spec.mpiReplicaSpecs.Worker.template.spec.containers.0.command.0", |v| v == "/usr/sbin/sshd"),
        ("spec.mpiReplicaSpecs.Worker.template.spec.containers.0.volumeMounts.0.mountPath", Value::is_string),
        (
            "spec.mpiReplicaSpecs.Worker.template.spec.volumes.0.persistentVolumeClaim.claimName",
            Value::is_string,
        ),
    ];

    fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
        path.split('.').fold(value, |value, key| match key.parse::<usize>() {
            Ok(index) => &value[index],
            Err(_) => &value[key],
        })
    }

    /// Nothing beside what is documented: the operator would refuse or drop it.
    fn check_keys(value: &Value, path: &str, known: &[&str]) {
        for key in at(value, path).as_mapping().unwrap().keys() {
            assert!(known.contains(&key.as_str().unwrap()), "{path} has {key:?}");
        }
    }

    fn check(job: &Value) {
        for (path, is_right) in FIELDS {
            assert!(is_right(at(job, path)), "{path}: {:?}", at(job, path));
        }
        check_keys(
            job,
            "spec",
            &[
                "slotsPerWorker",
                "runPolicy",
                "mpiReplicaSpecs",
                "sshAuthMountPath",
                "launcherCreationPolicy",
                "mpiImplementation",
            ],
        );
        check_keys(
            job,
            "spec.runPolicy",
            &[
                "cleanPodPolicy",
                "ttlSecondsAfterFinished",
                "activeDeadlineSeconds",
                "backoffLimit",
                "schedulingPolicy",
                "suspend",
            ],
        );
        check_keys(job, "spec.mpiReplicaSpecs", &["Launcher", "Worker"]);
        for replica in ["Launcher", "Worker"] {
            let path = format!("spec.mpiReplicaSpecs.{replica}");
            check_keys(job, &path, &["replicas", "restartPolicy", "template"]);
            let container = format!("{path}.template.spec.containers.0");
            check_keys(
                job,
                &container,
                &[
                    "name",
                    "image",
                    "workingDir",
                    "command",
                    "args",
                    "env",
                    "resources",
                    "volumeMounts",
                    "lifecycle",
                ],
            );
        }
    }

    #[test]
    fn snapshots() {
        let full = made(&FULL).unwrap();
        check_snapshot("full.yaml", &full);
        let small = made(&["--gpus-per-worker=0", "--claim=mine", "--", "train"]).unwrap();
        check_snapshot("small.yaml", &small);
        let [claim, job] = documents(&full).try_into().unwrap();
        check(&job);
        assert_eq!(
            (at(&claim, "kind"), at(&claim, "metadata.name")),
            (&"PersistentVolumeClaim".into(), &"math-run".into())
        );
        assert_eq!(at(&claim, "spec.resources.requests.storage"), "1Ti");
        let limits = at(&job, "spec.mpiReplicaSpecs.Worker.template.spec.containers.0.resources.limits");
        assert_eq!((&limits["nvidia.com/gpu"], &limits["memory"]), (&"8".into(), &"512Gi".into()));
        let [job] = documents(&small).try_into().unwrap();
        check(&job);
        let worker = at(&job, "spec.mpiReplicaSpecs.Worker.template.spec");
        assert!(worker["containers"][0]["resources"].is_null());
        assert_eq!(worker["volumes"][0]["persistentVolumeClaim"]["claimName"], "mine");
    }

    /// The command arrives word by word, whatever is in it.
    #[test]
    fn words_survive() {
        let documents = documents(&made(&FULL).unwrap());
        let args = at(&documents[1], "spec.mpiReplicaSpecs.Launcher.template.spec.containers.0.args");
        let words: Vec<&str> =
            args.as_sequence().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
        let last = FULL[13].replace('$', "$$");
        let expected = ["--hostfile", HOSTFILE, "--", "metamath", FULL[11], FULL[12], &last];
        assert_eq!(words, expected);
    }

    #[test]
    fn values_that_do_not_belong_are_refused() {
        for bad in ["--name=Math", "--name=a_b", "--namespace=-a", "--mount=runs", "--claim=a b"] {
            assert!(matches!(made(&[bad, "--", "train"]), Err(LaunchError::Value { .. })), "{bad}");
        }
    }

    #[test]
    fn a_dockerfile() {
        let text = dockerfile().unwrap();
        assert!(text.contains("FROM rust:1.") && text.contains("openssh-server"), "{text}");
    }
}
