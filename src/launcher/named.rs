//! Files that a program has read, by the names that it still has in its memory.
//!
//! An interpreter closes a source as soon as it is compiled, a server its
//! configuration as soon as it is read: at the capture nothing is open or
//! mapped any more that would say what the image was made from. Their names
//! are still there: runtimes keep the path of each module (`sys.modules`,
//! `require.cache`, `$LOADED_FEATURES`, `%INC`), configurations that of the
//! file they came from. So the pages of the image are searched for paths, and
//! a file that is found at one, and looks like something that programs read,
//! is a dependency of the entry like one that is mapped.
//!
//! Nobody waits for it: the program runs on, and a restore only looks whether
//! these files are what they were. What it cannot see is a path that a
//! program has forgotten, or keeps in anything but single bytes.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use regex::bytes::{Regex, RegexBuilder};

use crate::command::Command;
use crate::fingerprint::is_written;

/// Ends of the names of what programs read when they start: sources,
/// configurations, templates, schemas, keys, tables. Logs, databases and
/// compiled caches (`.pyc`) are not among them.
const READ: &str = "aj asp awk avsc bash bat cer cfg cjs clj cljs cljc cljx cnf coffee conf config \
    crt csv cts dhall edn ejs env erb erl es6 ex exs fs ftl gql gradle graphql groovy gsp haml hbs \
    hcl hjson hrl htm html inc ini ipynb j2 jade jar jinja jinja2 jks js json json5 jsonc jsonnet \
    jsp jsx key keystore kts less lisp liquid lua m4 md mjs mts mustache njk node p12 pem pfx php \
    phtml phar pl plist pm prisma properties proto ps1 psgi pt pug py pyi pyw r rake rb rego rhtml \
    rkt ru sass scala scm scss sh slim sql ss svelte tcl tf thrift tmpl toml tpl ts tsv tsx twig \
    txt vim vm vue war wasm wsdl xhtml xml xsd xsl xslt yaml yml zsh";

/// Ends of the names of configurations: these count when they lie in the
/// working directory, even if no page has their names. A compiled program has
/// those in its file, which is in no image.
const CONFIGURATIONS: [&str; 8] =
    ["cfg", "conf", "env", "ini", "properties", "toml", "yaml", "yml"];

/// Files that each network or login changes, and that are read again.
const NO_INPUTS: [&str; 2] = ["/etc/resolv.conf", "/etc/ld.so.conf"];

/// Directories whose files are the kernel's or last no longer than a boot.
const NO_DIRECTORIES: [&str; 4] = ["/proc", "/sys", "/dev", "/run"];

/// Directories that packages are installed into.
const INSTALLED: [&[u8]; 5] =
    [b"site-packages", b"dist-packages", b"node_modules", b"gems", b"vendor_ruby"];

/// How many files an entry counts by their names, at most, of the program's own
/// and of installed packages, which rarely change one by one: each costs every
/// hit a microsecond.
const FILES_MAX: usize = 4096;
const INSTALLED_MAX: usize = 1024;
/// What a path is made of, where its directory is not known.
const BYTE: &str = r"[!#-&+\-./0-9=@A-Z\[\]^_a-z~]";
/// Arguments that are looked at for directories.
const ARGUMENTS_MAX: usize = 64;
/// Entries of the working directory that are looked for, at most.
const ENTRIES_MAX: usize = 512;
/// Different paths that are tried.
const TRIES_MAX: usize = 1 << 18;
/// The longest path, and how much two blocks overlap.
const LEN_PATH_MAX: usize = 4096;
const LEN_BLOCK: usize = 4 << 20;
/// More than the longest of [`READ`].
const LEN_END_MAX: usize = 16;

/// Finds the files that a program has read, by the pages of its image in
/// `dir` and by the command that it is; what was changed after it was captured
/// is something that it writes, and does not count.
///
/// # Errors
/// If the pages cannot be read.
pub fn files(
    dir: &Path,
    command: &Command,
    captured_at: SystemTime,
) -> io::Result<BTreeSet<PathBuf>> {
    let since_1970 = captured_at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let captured_ns = i64::try_from(since_1970.as_nanos()).unwrap_or(i64::MAX);
    let mut found = Found { captured_ns, ..Found::default() };
    let cwd = &command.cwd;
    let local = local(cwd);
    for name in local.iter().filter(|name| is_configuration(name)) {
        found.take(&cwd.join(OsStr::from_bytes(name)));
    }
    let absolute = absolute(command);
    let local_names = pattern(&alternatives(&local));
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().map(OsStr::as_bytes).unwrap_or_default();
        if !name.starts_with(b"pages-") {
            continue;
        }
        blocks(&path, |block, whole| {
            for name in absolute.find_iter(block).take_while(|name| name.end() <= whole) {
                found.take(Path::new(OsStr::from_bytes(name.as_bytes())));
            }
            if local.is_empty() {
                return;
            }
            for name in local_names.find_iter(block).take_while(|name| name.end() <= whole) {
                let before = name.start().checked_sub(1).map_or(0, |at| block[at]);
                let after = block.get(name.end()).copied().unwrap_or_default();
                if ![before, after].iter().any(|byte| is_of_a_name(*byte)) {
                    found.take(&cwd.join(OsStr::from_bytes(name.as_bytes())));
                }
            }
        })?;
    }
    found.own.append(&mut found.installed);
    Ok(found.own)
}

/// What has been found so far.
#[derive(Default)]
struct Found {
    captured_ns: i64,
    tried: HashSet<PathBuf>,
    own: BTreeSet<PathBuf>,
    installed: BTreeSet<PathBuf>,
}

impl Found {
    /// Counts what is at a path, if it is a file that was read.
    fn take(&mut self, path: &Path) {
        if self.tried.len() == TRIES_MAX {
            return;
        }
        // As the kernel takes it, but for two slashes in a row.
        let path: PathBuf = path.components().collect();
        if self.tried.contains(&path) {
            return;
        }
        if counts(&path) {
            let metadata = fs::metadata(&path);
            let is_input = |found: &fs::Metadata| {
                let changed_ns = found.ctime() * 1_000_000_000 + found.ctime_nsec();
                found.is_file() && changed_ns < self.captured_ns
            };
            let (files, max) = match is_installed(&path) {
                true => (&mut self.installed, INSTALLED_MAX),
                false => (&mut self.own, FILES_MAX),
            };
            if files.len() < max && metadata.is_ok_and(|found| is_input(&found)) {
                files.insert(path.clone());
            }
        }
        self.tried.insert(path);
    }
}

/// Tells whether a path can be that of an input.
fn counts(path: &Path) -> bool {
    let plain = path.components().all(|part| part != Component::ParentDir);
    plain
        && !NO_DIRECTORIES.iter().any(|dir| path.starts_with(dir))
        && !NO_INPUTS.iter().any(|file| path == Path::new(file))
        && !is_written(path.as_os_str().as_bytes())
        && !is_standard_library(path)
}

/// Tells whether a file belongs to an interpreter's own library, which changes
/// with its program: `lib/python3.11/os.py`, but nothing that was installed
/// into `lib/python3.11/site-packages`.
fn is_standard_library(path: &Path) -> bool {
    let words: Vec<&[u8]> = path.iter().map(OsStr::as_bytes).collect();
    let numbered = |word: &[u8], name: &[u8]| {
        word.strip_prefix(name).is_some_and(|rest| rest.first().is_some_and(u8::is_ascii_digit))
    };
    let is_library = words.windows(2).any(|pair| match pair {
        [b"lib", version] => numbered(version, b"python3."),
        [b"ruby" | b"perl" | b"perl5", version] => numbered(version, b""),
        _ => false,
    });
    is_library
        && !is_installed(path)
        && (words.contains(&&b"lib"[..]) || words.contains(&&b"share"[..]))
}

fn is_installed(path: &Path) -> bool {
    path.iter().any(|word| INSTALLED.contains(&word.as_bytes()))
}

/// Makes the pattern of an absolute path. An odd byte, like a space, is part of
/// one only below the working directory and where the arguments lead to: these
/// names are known.
fn absolute(command: &Command) -> Regex {
    let mut ends: Vec<&str> = READ.split_whitespace().collect();
    // The longest first: `app.json` is no `app.js`.
    ends.sort_by_key(|end| std::cmp::Reverse(end.len()));
    let rest = format!(r"/{BYTE}+\.(?:{})", ends.join("|"));
    // A heap is full of slashes, but not of the names of the few directories
    // that every path begins with.
    let path = format!("/(?:{}){rest}", roots().join("|"));
    let plain = pattern(&format!("^{BYTE}+$"));
    let named = command.argv.iter().skip(1).take(ARGUMENTS_MAX);
    let named = named.map(|argument| command.cwd.join(argument));
    let named = named.filter_map(|file| file.parent().map(Path::to_owned));
    let odd = |dir: &PathBuf| !plain.is_match(dir.as_os_str().as_bytes());
    let places: BTreeSet<PathBuf> = named.chain([command.cwd.clone()]).filter(odd).collect();
    let mut paths: Vec<String> = places
        .iter()
        .filter_map(|place| place.to_str())
        .map(|place| format!("{}{rest}", regex::escape(place)))
        .collect();
    paths.push(path);
    pattern(&paths.join("|"))
}

/// Lists the directories that absolute paths can begin with; what lies in `/`
/// itself is found by an argument that names it, or from there.
fn roots() -> Vec<String> {
    let entries = fs::read_dir("/").into_iter().flatten().flatten();
    let dirs = entries.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name());
    let counted = dirs.filter(|name| {
        let path = Path::new("/").join(name);
        !NO_DIRECTORIES.iter().any(|dir| path == Path::new(dir))
    });
    counted.filter_map(|name| name.to_str().map(regex::escape)).collect()
}

fn alternatives(names: &[Vec<u8>]) -> String {
    let escaped = names.iter().map(|name| regex::escape(&String::from_utf8_lossy(name)));
    escaped.collect::<Vec<_>>().join("|")
}

/// Compiles a pattern of ours.
fn pattern(text: &str) -> Regex {
    let regex = RegexBuilder::new(text).unicode(false).size_limit(64 << 20).build();
    regex.expect("names are escaped and the rest is constant")
}

fn is_of_a_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-".contains(&byte)
}

/// Lists the files of the working directory by names that can be told from
/// words; none if there are too many to be a program's.
fn local(cwd: &Path) -> Vec<Vec<u8>> {
    let Ok(entries) = fs::read_dir(cwd) else { return Vec::new() };
    let mut names = Vec::new();
    for (count, entry) in entries.flatten().enumerate() {
        if count == ENTRIES_MAX {
            return Vec::new();
        }
        let name = entry.file_name().as_bytes().to_vec();
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file() || kind.is_symlink());
        let is_telling = name.is_ascii() && name.len() > 3 && name.contains(&b'.');
        if is_file && is_telling {
            names.push(name);
        }
    }
    names
}

fn is_configuration(name: &[u8]) -> bool {
    let end = name.rsplit(|byte| *byte == b'.').next().unwrap_or_default();
    name.starts_with(b".env.") || CONFIGURATIONS.iter().any(|known| known.as_bytes() == end)
}

/// Shows a file in blocks that overlap by the length of a path, each with the
/// place up to which nothing can be the beginning of a longer end of a name.
fn blocks(path: &Path, mut show: impl FnMut(&[u8], usize)) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; LEN_BLOCK];
    let mut kept = 0;
    loop {
        let read = match file.read(&mut buffer[kept..]) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let len = kept + read;
        if read == 0 {
            show(&buffer[..len], len);
            return Ok(());
        }
        show(&buffer[..len], len.saturating_sub(LEN_END_MAX));
        kept = len.min(LEN_PATH_MAX);
        buffer.copy_within(len - kept..len, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Looks for the names in a page of other bytes.
    fn found(dir: &Path, pages: &[u8], captured_at: SystemTime) -> Vec<String> {
        let image = dir.join("image");
        fs::create_dir_all(&image).unwrap();
        fs::write(image.join("pages-1.img"), pages).unwrap();
        fs::write(image.join("core-1.img"), b"/etc/hosts.conf").unwrap();
        let argv = vec!["perl".into(), dir.join("its lib/main").into()];
        let command = Command { argv, env: Vec::new(), cwd: dir.join("my work") };
        let found = files(&image, &command, captured_at).unwrap();
        let names = found.iter().map(|path| path.strip_prefix(dir).unwrap().to_str().unwrap());
        names.map(str::to_owned).collect()
    }

    #[test]
    fn what_a_page_names_is_found_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        let work = base.join("my work/sub");
        fs::create_dir_all(&work).unwrap();
        fs::create_dir_all(base.join("its lib")).unwrap();
        fs::create_dir_all(base.join("lib/python3.11/site-packages")).unwrap();
        let names = [
            "a.js",
            "a.json",
            "b.py",
            "c.log",
            "d.pyc",
            "data.db",
            "unnamed.rb",
            "my work/w.pl",
            "my work/sub/x.mjs",
            "its lib/y.pm",
            "my work/app.toml",
            "my work/dump.rdb",
            "my work/other.rdb",
            "lib/python3.11/os.py",
            "lib/python3.11/site-packages/p.py",
        ];
        for name in names {
            fs::write(base.join(name), name).unwrap();
        }
        let later = SystemTime::now() + Duration::from_secs(1);
        let path = |name: &str| format!("{}/{name}", base.display()).into_bytes();
        let mut pages = vec![0xff; LEN_BLOCK - 20];
        // Across two blocks; before another object without a zero between; as
        // a URL; in a directory with a space in its name.
        pages.extend(path("a.json"));
        pages.extend(b"\x00\x01");
        pages.extend(path("b.py"));
        pages.extend(b"A\x01file://");
        pages.extend(path("my work/sub/x.mjs"));
        pages.extend(b"\x00./w.pl\x00mydump.rdb \x00dump.rdb\x00");
        for name in ["c.log", "d.pyc", "data.db", "lib/python3.11/os.py", "gone.py", "its lib/y.pm"]
        {
            pages.extend(path(name));
            pages.push(0);
        }
        pages.extend(path("lib/python3.11/site-packages/p.py"));
        let expected = [
            "a.json",
            "b.py",
            "its lib/y.pm",
            "lib/python3.11/site-packages/p.py",
            "my work/app.toml",
            "my work/dump.rdb",
            "my work/sub/x.mjs",
            "my work/w.pl",
        ];
        assert_eq!(found(&base, &pages, later), expected);
        // What changes all the time is the program's own.
        assert_eq!(found(&base, &pages, UNIX_EPOCH), [""; 0]);
    }

    #[test]
    fn what_the_system_changes_is_no_input() {
        for path in ["/etc/resolv.conf", "/proc/1/a.json", "/run/x.json", "/a/../b.js", "/a/b.log"]
        {
            assert!(!counts(Path::new(path)), "{path}");
        }
        for path in ["/etc/my.cnf", "/usr/lib/ruby/vendor_ruby/x.rb", "/srv/perl/5/x.pl"] {
            assert!(counts(Path::new(path)), "{path}");
        }
        for path in ["/usr/lib/ruby/3.1.0/set.rb", "/usr/share/perl/5.36/strict.pm"] {
            assert!(!counts(Path::new(path)), "{path}");
        }
    }
}
