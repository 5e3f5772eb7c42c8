//! What a planner is told beside the golden image, for tests and benches.

use warmstart::restore::host::Host;
use warmstart::restore::planner::{Changed, Facts, Given, PageMode, Policy, Source, Written};

/// A caller's 0, 1 and 2, a log that is appended to, a host that does not
/// matter.
pub fn facts(page_mode: PageMode) -> Facts {
    let stdio = |fd: i32| Given { fd, source: Source::Stdio(fd as u8), cloexec: false };
    Facts {
        given: (0..3).map(stdio).collect(),
        closed: vec![],
        written: vec![Written { id: 3, policy: Policy::Append { mode: 0o644 } }],
        page_mode,
        guards: vec![],
        no_new_privs: false,
        caller_limits: vec![],
        caller_personality: 0,
        changed: Changed::default(),
        host: Host { boot_id: "boot".into(), vdso_digest: [7; 32], xfeatures: 0 },
        len_vclock: Some(0x2000),
    }
}
