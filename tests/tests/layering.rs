//! The direction of dependencies, as the README's picture and `docs/architecture.md` draw it, compared with the manifests.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Every package of the workspace and all the packages of the workspace that it may name, dependencies for tests and
/// builds included. What is not in this table does not belong to the workspace.
const LAYERS: &[(&str, &[&str])] = &[
    ("tidegate-core", &[]),
    ("tidegate-proto", &["tidegate-core"]),
    ("tidegate-store", &["tidegate-core"]),
    ("tidegate-sim", &["tidegate-core"]),
    ("tidegate-client", &["tidegate-proto", "tidegate-core"]),
    ("tidegate-server", &["tidegate-store", "tidegate-proto", "tidegate-core"]),
    (
        "tidegate-cli",
        &["tidegate-server", "tidegate-client", "tidegate-sim", "tidegate-store", "tidegate-proto", "tidegate-core"],
    ),
    ("tidegate-tests", ANY),
    ("tidegate-benches", ANY),
];

/// Tests and benchmarks may name every package.
const ANY: &[&str] = &["*"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace").to_path_buf()
}

/// The manifests of the workspace's packages, as (path, text).
fn manifests() -> Vec<(PathBuf, String)> {
    let crates = fs::read_dir(root().join("crates")).expect("crates/ is readable");
    let folders = crates.map(|entry| entry.expect("crates/ is readable").path());
    let manifests = folders.chain([root().join("tests"), root().join("benches")]).map(|path| path.join("Cargo.toml"));
    manifests.filter(|path| path.exists()).map(|path| (path.clone(), read(&path))).collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The packages that a manifest names in any of its dependency tables, by their real names.
fn dependencies(manifest: &toml::Table) -> Vec<String> {
    let mut named = Vec::new();
    for (name, value) in manifest {
        match (name.as_str(), value) {
            ("dependencies" | "dev-dependencies" | "build-dependencies", toml::Value::Table(table)) => {
                for (alias, dependency) in table {
                    let package = dependency.get("package").and_then(toml::Value::as_str);
                    named.push(package.unwrap_or(alias).to_owned());
                }
            }
            ("target", toml::Value::Table(targets)) => {
                let tables = targets.values().filter_map(toml::Value::as_table);
                named.extend(tables.flat_map(dependencies));
            }
            _ => {}
        }
    }
    named
}

/// What in a manifest goes against [`LAYERS`].
fn against_the_layers(manifest: &str) -> Vec<String> {
    let manifest: toml::Table = manifest.parse().expect("a manifest is TOML");
    let name = manifest["package"]["name"].as_str().expect("a package has a name");
    let layers: BTreeMap<_, _> = LAYERS.iter().copied().collect();
    let Some(allowed) = layers.get(name) else { return vec![format!("{name} is in no layer")] };
    dependencies(&manifest)
        .into_iter()
        .filter(|dependency| dependency.starts_with("tidegate"))
        .filter(|dependency| *allowed != ANY && !allowed.contains(&dependency.as_str()))
        .map(|dependency| format!("{name} must not depend on {dependency}"))
        .collect()
}

#[test]
fn no_package_names_one_that_its_layer_may_not() {
    let manifests = manifests();
    assert!(manifests.len() >= 6, "core, proto, store, server, cli, tests: {}", manifests.len());
    let found: Vec<String> = manifests.iter().flat_map(|(_, manifest)| against_the_layers(manifest)).collect();
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn a_forbidden_dependency_is_found_wherever_it_stands() {
    let package = |name: &str, rest: &str| format!("[package]\nname = \"{name}\"\n{rest}");
    let found = |name, rest| against_the_layers(&package(name, rest));
    let allowed = "[dependencies]\ntidegate-core.workspace = true\nserde = \"1\"";
    assert_eq!(found("tidegate-store", allowed), Vec::<String>::new());
    assert_eq!(found("tidegate-tests", "[dependencies]\ntidegate-cli.workspace = true"), Vec::<String>::new());
    for forbidden in [
        "[dependencies]\ntidegate-proto.workspace = true",
        "[dev-dependencies]\ntidegate-proto = { path = \"../proto\" }",
        "[build-dependencies]\nwire = { package = \"tidegate-proto\", path = \"../proto\" }",
        "[target.'cfg(unix)'.dependencies]\ntidegate-proto.workspace = true",
    ] {
        assert_eq!(found("tidegate-store", forbidden), ["tidegate-store must not depend on tidegate-proto"]);
    }
    assert_eq!(found("tidegate-core", allowed), ["tidegate-core must not depend on tidegate-core"]);
    assert_eq!(found("tidegate-extra", ""), ["tidegate-extra is in no layer"]);
}

#[test]
fn every_package_takes_the_workspace_lints() {
    for (path, manifest) in manifests() {
        let manifest: toml::Table = manifest.parse().expect("a manifest is TOML");
        let lints = manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool);
        assert_eq!(lints, Some(true), "{}", path.display());
    }
}

/// `docs/architecture.md` leads a newcomer through the files; a name that leads nowhere is worse than none.
#[test]
fn the_architecture_names_files_that_exist() {
    let text = read(&root().join("docs/architecture.md"));
    let named: Vec<&str> = text.split('`').skip(1).step_by(2).filter(|name| name.ends_with(".rs")).collect();
    assert!(named.len() > 10, "{named:?}");
    let mut files = Vec::new();
    let mut folders = vec![root().join("crates"), root().join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository is readable") {
            let path = entry.expect("a folder of the repository is readable").path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    for name in named {
        assert!(files.iter().any(|file| file.ends_with(name)), "docs/architecture.md names {name}, which is not there");
    }
}

#[test]
fn the_core_is_no_std() {
    let core = read(&root().join("crates/core/src/lib.rs"));
    assert!(core.lines().any(|line| line.trim() == "#![no_std]"), "crates/core/src/lib.rs lacks #![no_std]");
    for line in core.lines() {
        let line = line.trim();
        if line.starts_with("extern crate std") {
            assert!(core.contains("#[cfg(test)]\nextern crate std;"), "core takes std outside its tests");
        }
    }
}
