//! Kubernetes' programs, built from Debian 12's source package with Debian 12's Go, both private to the cache.
//!
//! It is 1.20, the newest that Debian has the whole source of: old, but complete, with everything vendored. It is for tests
//! alone. About five minutes on two cores, once.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{
    cache,
    debian::{Suite, resolve, unpack, unpack_source},
    progress,
};

const BUILDER: &str = "kubernetes 1";
const VERSION: &str = "v1.20.2";
const MODULE: &str = "k8s.io/kubernetes";
/// A Go that this source builds with, and a library whose vendored version crashes when built with it.
const PACKAGES: [&str; 2] = ["golang-1.19-go", "golang-github-modern-go-reflect2-dev"];
const REFLECT: &str = "github.com/modern-go/reflect2";
const PROGRAMS: [&str; 5] = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl"];
/// Without the cloud providers and Docker's shim.
const TAGS: &str = "providerless,dockerless";
/// What the server's build generates, and Debian's package, which is kubectl alone, leaves out.
const OPENAPI: &str = "pkg/generated/openapi";

/// Where the programs are.
#[derive(Debug, Clone)]
pub struct Binaries {
    folder: PathBuf,
}

impl Binaries {
    /// The path of `kubelet` and its like.
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// Builds the programs, or finds them in the cache.
pub fn binaries() -> Result<Binaries> {
    let packages = resolve(Suite::Bookworm, &PACKAGES)?;
    let key = cache::Key::default().with(BUILDER).with(&packages.text).finish();
    let folder = cache::entry("kubernetes", &key, |folder| {
        let debs = packages.fetch()?;
        let work = folder.join("work");
        let go = Go { tree: work.join("go"), path: work.join("gopath"), home: work.clone() };
        fs::create_dir_all(&go.tree)?;
        unpack(&debs, &go.tree)?;
        let source = go.path.join("src").join(MODULE);
        fs::create_dir_all(source.parent().context("the source's folder")?)?;
        unpack_source("kubernetes", &source)?;
        replace_reflect(&go, &source)?;
        progress::step("generating Kubernetes' OpenAPI definitions", || generate_openapi(&go, &source))?;
        for program in PROGRAMS {
            progress::step(&format!("building {program}"), || build(&go, &source, program, &folder.join(program)))?;
        }
        fs::remove_dir_all(&work).context("remove the build's folder")
    })?;
    Ok(Binaries { folder })
}

/// Go without modules, with nothing of the user's own settings.
#[derive(Debug)]
struct Go {
    tree: PathBuf,
    path: PathBuf,
    home: PathBuf,
}

impl Go {
    fn root(&self) -> PathBuf {
        self.tree.join("usr/lib/go-1.19")
    }

    /// `go build` of a package into a program.
    fn build(&self, source: &Path, flags: &[&str], output: &Path, package: &str) -> Result<()> {
        let mut command = self.command(&self.root().join("bin/go"), source);
        run(command.arg("build").args(flags).arg("-o").arg(output).arg(package))?;
        Ok(())
    }

    /// A program that reads Go's settings.
    fn command(&self, program: &Path, source: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(source).env_clear();
        command.env("PATH", "/usr/bin:/bin").env("HOME", &self.home).env("GOROOT", self.root());
        command.env("GOPATH", &self.path).env("GOCACHE", self.home.join("cache"));
        command.env("GO111MODULE", "off").env("CGO_ENABLED", "0");
        command
    }
}

/// The vendored version reads the runtime's own structures, as they were before Go 1.18.
fn replace_reflect(go: &Go, source: &Path) -> Result<()> {
    let vendored = source.join("vendor").join(REFLECT);
    fs::remove_dir_all(&vendored).with_context(|| format!("remove {}", vendored.display()))?;
    let packaged = go.tree.join("usr/share/gocode/src").join(REFLECT);
    run(Command::new("cp").args(["--recursive", "--dereference"]).args([&packaged, &vendored]))?;
    Ok(())
}

fn generate_openapi(go: &Go, source: &Path) -> Result<()> {
    let generator = go.home.join("openapi-gen");
    go.build(source, &[], &generator, "./vendor/k8s.io/kube-openapi/cmd/openapi-gen")?;
    let packages: Vec<String> = tagged_packages(source)?.iter().map(|folder| format!("{MODULE}/{folder}")).collect();
    let mut command = go.command(&generator, source);
    command.args(["--logtostderr", "--input-dirs", &packages.join(",")]);
    command.args(["--output-package", &format!("{MODULE}/{OPENAPI}"), "--output-file-base", "zz_generated.openapi"]);
    command.args(["--go-header-file", "vendor/k8s.io/code-generator/hack/boilerplate.go.txt"]);
    run(command.arg("--report-filename").arg(go.home.join("violations")))?;
    Ok(())
}

/// The folders of the packages whose types are described; those of `staging` by their vendored names.
fn tagged_packages(source: &Path) -> Result<Vec<String>> {
    let listed = run(Command::new("grep")
        .args(["--recursive", "--files-with-matches", "--extended-regexp", "--include=*.go"])
        .args(["^// *\\+k8s:openapi-gen=", "pkg", "staging/src"])
        .current_dir(source))?;
    let mut folders: Vec<String> = listed
        .lines()
        .filter(|file| {
            !["_examples", "/testdata/", "sample-apiserver", "code-generator", "_test.go"]
                .iter()
                .any(|text| file.contains(text))
        })
        .filter_map(|file| Some(file.rsplit_once('/')?.0.replacen("staging/src/", "vendor/", 1)))
        .collect();
    folders.sort_unstable();
    folders.dedup();
    ensure!(!folders.is_empty(), "no package of Kubernetes' says +k8s:openapi-gen");
    Ok(folders)
}

fn build(go: &Go, source: &Path, program: &str, output: &Path) -> Result<()> {
    let values =
        [("gitVersion", VERSION), ("gitMajor", "1"), ("gitMinor", "20"), ("buildDate", "1970-01-01T00:00:00Z")];
    let mut flags = vec!["-s -w -buildid=".to_owned()];
    for package in ["client-go/pkg/version", "component-base/version"] {
        flags.extend(values.map(|(name, value)| format!("-X {MODULE}/vendor/k8s.io/{package}.{name}={value}")));
    }
    let flags = flags.join(" ");
    let flags = ["-trimpath", "-tags", TAGS, "-ldflags", &flags];
    go.build(source, &flags, output, &format!("{MODULE}/cmd/{program}"))
}

/// Runs a command to its end; its standard output.
fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("run {name}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let tail: Vec<&str> = stderr.lines().rev().take(20).collect();
    ensure!(
        output.status.success(),
        "{name} failed ({}):\n{}",
        output.status,
        tail.into_iter().rev().collect::<Vec<_>>().join("\n")
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
