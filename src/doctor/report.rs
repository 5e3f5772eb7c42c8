//! From facts to a report: pure.

use super::{Ability, Check, Facts, Report, Strategy, Verdict, strategies};
use crate::launcher::PIDS_AUTO;
use crate::pids;
use crate::pids::range::Permitted;
use crate::sys::support::SetTid;
use crate::ui::{Align, Table, bytes};

impl Ability {
    pub(super) fn yes() -> Self {
        Self { works: true, reason: None, enable: None }
    }

    pub(super) fn no(reason: impl Into<String>, enable: Option<String>) -> Self {
        Self { works: false, reason: Some(reason.into()), enable }
    }
}

impl Report {
    /// Judges the facts.
    pub fn of(facts: &Facts) -> Self {
        let strategies = strategies::all(facts);
        let pids = taken_by_itself(facts, &strategies);
        Self {
            schema_version: 1,
            version: env!("CARGO_PKG_VERSION"),
            uid: facts.uid,
            restoring: restoring(facts, pids, &strategies),
            pids,
            capturing: capturing(facts),
            strategies,
            checks: checks(facts),
        }
    }

    /// Renders the report for people.
    pub fn to_text(&self) -> String {
        let mut table =
            Table::new(&[("check", Align::Left), ("", Align::Left), ("found", Align::Left)]);
        for check in &self.checks {
            let verdict = match check.verdict {
                Verdict::Ok => "ok",
                Verdict::Info => "",
                Verdict::Problem => "PROBLEM",
            };
            table.row([check.name.into(), verdict.into(), check.found.clone()]);
        }
        let mut text = table.render();
        text.push('\n');
        for strategy in &self.strategies {
            line(&mut text, &format!("pids by {}", strategy.name), &strategy.ability);
            if let Some(command) = &strategy.ability.enable {
                text.push_str(&format!("  to enable it: {command}\n"));
            }
        }
        line(&mut text, "capturing", &self.capturing);
        line(&mut text, &format!("restoring as uid {}", self.uid), &self.restoring);
        if let (true, Some(pids)) = (self.restoring.works, self.pids) {
            // In place of the line's end.
            text.truncate(text.len() - 1);
            text.push_str(&format!(", with pids by {pids}\n"));
        }
        if let Some(command) = self.restoring.enable.as_ref().or(self.capturing.enable.as_ref()) {
            text.push_str(&format!("\n  try: {command}\n"));
        }
        text
    }
}

fn line(text: &mut String, what: &str, ability: &Ability) {
    let answer = match &ability.reason {
        _ if ability.works => "yes".to_owned(),
        Some(reason) => format!("no: {reason}"),
        None => "no".to_owned(),
    };
    text.push_str(&format!("{what}: {answer}\n"));
}

/// Returns the strategy that a restore takes by itself. Passing over pids is
/// not one of them where `/proc/PID/exe` would then name warmstart.
fn taken_by_itself(facts: &Facts, strategies: &[Strategy]) -> Option<&'static str> {
    const CYCLE: &str = pids::Strategy::Cycle.name();
    PIDS_AUTO.iter().map(|strategy| strategy.name()).find(|name| {
        let works = strategies.iter().any(|it| it.name == *name && it.ability.works);
        works && (*name != CYCLE || facts.caps.can_choose_pids())
    })
}

fn restoring(facts: &Facts, pids: Option<&str>, strategies: &[Strategy]) -> Ability {
    if !cfg!(target_arch = "x86_64") {
        return Ability::no("the native engine is for x86-64", None);
    }
    if facts.vdso_sealed == Some(true) {
        return Ability::no("the kernel seals the vDSO (CONFIG_MSEAL_SYSTEM_MAPPINGS)", None);
    }
    if pids.is_none() {
        // The best first: what is in its way is what to remove.
        let best = strategies.iter().map(|strategy| &strategy.ability).find(|it| !it.works);
        return best.cloned().unwrap_or_else(|| Ability::no("no way to its pids", None));
    }
    cache(facts).unwrap_or_else(Ability::yes)
}

fn capturing(facts: &Facts) -> Ability {
    if !facts.tid_address || !facts.kcmp {
        return Ability::no("the kernel lacks CONFIG_CHECKPOINT_RESTORE or CONFIG_KCMP", None);
    }
    match facts.ptrace_scope {
        Some(3) => return Ability::no("ptrace is switched off for good (Yama 3)", None),
        Some(2) if !facts.caps.can_trace_all() => {
            return Ability::no(
                "only root may trace (Yama 2)",
                Some("sudo sysctl kernel.yama.ptrace_scope=1".into()),
            );
        }
        _ => {}
    }
    cache(facts).unwrap_or_else(Ability::yes)
}

fn cache(facts: &Facts) -> Option<Ability> {
    Some(Ability::no(format!("cache: {}", facts.cache.problem()?), None))
}

fn checks(facts: &Facts) -> Vec<Check> {
    let check = |name, ok: bool, found: String| Check {
        name,
        verdict: if ok { Verdict::Ok } else { Verdict::Problem },
        found,
    };
    let info = |name, found: String| Check { name, verdict: Verdict::Info, found };
    vec![
        info("kernel", facts.kernel.clone()),
        // Never needed: what native refuses, it may restore.
        info("criu", facts.criu.clone().unwrap_or_else(|why| why)),
        info("clone3 set_tid", set_tid_text(facts.set_tid)),
        info("capability", capability_text(facts)),
        check(
            "pid range",
            !matches!(facts.pid_range, Some(Err(_))),
            match &facts.pid_range {
                None => "any".into(),
                Some(Err(error)) => error.to_string(),
                Some(Ok(Permitted { range, by: Some(path) })) => {
                    format!("{range} ({})", path.display())
                }
                Some(Ok(Permitted { range, by: None })) => format!("{range} (the default)"),
            },
        ),
        info("binary", binary_text(facts)),
        check(
            "ptrace",
            facts.ptrace_scope.unwrap_or(0) < 2
                || (facts.ptrace_scope == Some(2) && facts.caps.can_trace_all()),
            match facts.ptrace_scope {
                None => "no Yama".into(),
                Some(scope) => format!("kernel.yama.ptrace_scope = {scope}"),
            },
        ),
        check(
            "vDSO",
            facts.vdso_sealed != Some(true),
            match facts.vdso_sealed {
                Some(true) => "sealed: it cannot be moved to where the image had it".into(),
                Some(false) => "can be moved".into(),
                None => "not found in /proc/self/smaps".into(),
            },
        ),
        check(
            "checkpoint support",
            facts.tid_address && facts.kcmp && facts.map_files,
            format!(
                "PR_GET_TID_ADDRESS {}, kcmp {}, map_files {}",
                yes(facts.tid_address),
                yes(facts.kcmp),
                yes(facts.map_files)
            ),
        ),
        check("cache", facts.cache.problem().is_none(), cache_text(facts)),
        info("pid_max", facts.pid_max.map_or("unknown".into(), |max| max.to_string())),
        info("namespaces", namespaces_text(facts)),
        info("seccomp", seccomp_text(facts.seccomp).into()),
        info("clock", clock_text(facts).into()),
    ]
}

fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}

fn set_tid_text(set_tid: SetTid) -> String {
    match set_tid {
        SetTid::Works => "works".into(),
        SetTid::NotPermitted => "not permitted".into(),
        SetTid::NoClone3 => "no clone3".into(),
        SetTid::NoSetTid => "no set_tid".into(),
        SetTid::Failed(errno) => std::io::Error::from_raw_os_error(errno).to_string(),
    }
}

fn capability_text(facts: &Facts) -> String {
    let who = if facts.caps.root { "root" } else { "ordinary user" };
    let has = if facts.caps.can_choose_pids() { "with" } else { "without" };
    format!("{who} {has} CAP_CHECKPOINT_RESTORE")
}

fn binary_text(facts: &Facts) -> String {
    let caps = match facts.file_caps {
        None => "no file capability",
        Some(caps) if caps.gives_more() => "more file capabilities than it needs",
        Some(caps) if caps.gives_checkpoint_restore() => "cap_checkpoint_restore",
        Some(_) => "other file capabilities",
    };
    let nosuid = if facts.nosuid { ", file system mounted nosuid" } else { "" };
    format!("{}: {caps}{nosuid}", facts.binary.display())
}

fn cache_text(facts: &Facts) -> String {
    if let Some(problem) = facts.cache.problem() {
        return problem;
    }
    let state = if facts.cache.exists { "" } else { ", to be made" };
    let free = facts.cache.free.map_or("unknown".into(), bytes);
    let noexec = if facts.cache.noexec { ", mounted noexec: images are copied" } else { "" };
    format!("{}{state}, {free} free{noexec}", facts.cache.path.display())
}

fn seccomp_text(mode: Option<u32>) -> &'static str {
    match mode {
        None => "unknown",
        Some(0) => "none",
        Some(1) => "strict",
        Some(_) => "a filter",
    }
}

/// Says what becomes of clocks: an image of another boot needs its own.
fn clock_text(facts: &Facts) -> &'static str {
    if facts.namespace.is_none() && facts.time_namespaces {
        "images from before a reboot are restored, in a time namespace"
    } else {
        "images from before a reboot are captured anew"
    }
}

fn namespaces_text(facts: &Facts) -> String {
    let user = match (facts.max_user_namespaces, facts.user_namespaces_restricted_by) {
        (None, _) => "user: unknown".into(),
        (Some(0), _) => "user: none (user.max_user_namespaces = 0)".into(),
        (Some(_), Some(sysctl)) => format!("user: root only ({sysctl})"),
        (Some(_), None) => "user: yes".to_owned(),
    };
    format!("{user}; time: {}", yes(facts.time_namespaces))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::directory::Directory;
    use crate::pids::Unavailable;
    use crate::pids::range::{self, PidRange, RangeError};
    use crate::privilege::Caps;
    use crate::privilege::file::FileCaps;
    use crate::sys::capability::Sets;
    use crate::sys::namespaces::{Failed, Step};

    fn plain_user() -> Facts {
        Facts {
            kernel: "6.18.0".into(),
            uid: 1000,
            caps: Caps { root: false, sets: Sets::default() },
            bounded: true,
            no_new_privs: false,
            set_tid: SetTid::NotPermitted,
            binary: "/usr/local/bin/warmstart".into(),
            file_caps: None,
            last_pid: Some(Unavailable::NotPermitted),
            namespace: None,
            cycle: None,
            pid_range: Some(Ok(Permitted { range: PidRange::DEFAULT, by: None })),
            seccomp: Some(0),
            nosuid: false,
            ptrace_scope: Some(1),
            pid_max: Some(32768),
            vdso_sealed: Some(false),
            tid_address: true,
            kcmp: true,
            map_files: true,
            max_user_namespaces: Some(100),
            user_namespaces_restricted_by: None,
            time_namespaces: true,
            criu: Err("there is no criu".into()),
            cache: Directory {
                path: "/home/u/.cache/warmstart".into(),
                exists: false,
                owner: Some((1000, 0o700)),
                writable: true,
                not_a_directory: false,
                noexec: false,
                free: Some(12_345_678_901),
            },
        }
    }

    fn with_capability() -> Facts {
        let bit = FileCaps::OURS.permitted;
        Facts {
            caps: Caps {
                root: false,
                sets: Sets { effective: bit, permitted: bit, inheritable: 0 },
            },
            set_tid: SetTid::Works,
            last_pid: None,
            file_caps: Some(FileCaps::OURS),
            ..plain_user()
        }
    }

    fn namespaces_are_off(step: Step) -> Option<Unavailable> {
        Some(Unavailable::NoNamespaces(Failed { step, errno: libc::EPERM }))
    }

    #[test]
    fn a_plain_user_restores_in_a_namespace_and_learns_what_would_be_better() {
        insta::assert_snapshot!(Report::of(&plain_user()).to_text(), @r"
        check                   found
        kernel                  6.18.0
        criu                    there is no criu
        clone3 set_tid          not permitted
        capability              ordinary user without CAP_CHECKPOINT_RESTORE
        pid range           ok  1000-4194303 (the default)
        binary                  /usr/local/bin/warmstart: no file capability
        ptrace              ok  kernel.yama.ptrace_scope = 1
        vDSO                ok  can be moved
        checkpoint support  ok  PR_GET_TID_ADDRESS yes, kcmp yes, map_files yes
        cache               ok  /home/u/.cache/warmstart, to be made, 12.3 GB free
        pid_max                 32768
        namespaces              user: yes; time: yes
        seccomp                 none
        clock                   images from before a reboot are restored, in a time namespace

        pids by set-tid: no: /usr/local/bin/warmstart has no file capability CAP_CHECKPOINT_RESTORE
          to enable it: sudo /usr/local/bin/warmstart setup
        pids by last-pid: no: /usr/local/bin/warmstart has no file capability CAP_CHECKPOINT_RESTORE
          to enable it: sudo /usr/local/bin/warmstart setup
        pids by namespace: yes
        pids by cycle: yes
        capturing: yes
        restoring as uid 1000: yes, with pids by namespace
        ");
    }

    #[test]
    fn without_namespaces_the_one_command_is_named() {
        let facts = Facts {
            namespace: namespaces_are_off(Step::Map),
            user_namespaces_restricted_by: Some("kernel.apparmor_restrict_unprivileged_userns"),
            ..plain_user()
        };
        let report = Report::of(&facts);
        assert_eq!(report.pids, None);
        assert_eq!(report.restoring.enable.as_deref(), Some("sudo /usr/local/bin/warmstart setup"));
        insta::assert_snapshot!(report.to_text().split_once("\n\n").unwrap().1, @r"
        pids by set-tid: no: /usr/local/bin/warmstart has no file capability CAP_CHECKPOINT_RESTORE
          to enable it: sudo /usr/local/bin/warmstart setup
        pids by last-pid: no: /usr/local/bin/warmstart has no file capability CAP_CHECKPOINT_RESTORE
          to enable it: sudo /usr/local/bin/warmstart setup
        pids by namespace: no: namespaces cannot be made here: mapping the own uid and gid: Operation not permitted
          to enable it: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0
        pids by cycle: yes
        capturing: yes
        restoring as uid 1000: no: /usr/local/bin/warmstart has no file capability CAP_CHECKPOINT_RESTORE

          try: sudo /usr/local/bin/warmstart setup
        ");
    }

    #[test]
    fn the_capability_is_enough() {
        let facts = Facts { namespace: namespaces_are_off(Step::Unshare), ..with_capability() };
        let report = Report::of(&facts);
        assert!(report.restoring.works && report.capturing.works);
        assert_eq!(report.pids, Some("set-tid"));
        assert!(!report.to_text().contains("PROBLEM"), "{}", report.to_text());
        let no_clone3 = Facts { set_tid: SetTid::NoClone3, seccomp: Some(2), ..facts };
        assert_eq!(Report::of(&no_clone3).pids, Some("last-pid"));
        let read_only = Unavailable::NoLastPid(libc::EROFS);
        let sandbox = Facts { last_pid: Some(read_only), ..no_clone3.clone() };
        assert_eq!(Report::of(&sandbox).pids, Some("cycle"));
        // Without it `/proc/PID/exe` would not be the program's.
        let plain = Facts { caps: plain_user().caps, ..sandbox };
        assert_eq!(Report::of(&plain).pids, None);
    }

    /// What each strategy is told to be in the way of, and the way out.
    #[test]
    fn each_strategy_has_its_own_command() {
        let enable = |facts: &Facts, name: &str| {
            let report = Report::of(facts);
            let found = report.strategies.into_iter().find(|it| it.name == name).unwrap();
            assert!(!found.ability.works, "{name}");
            found.ability.enable.unwrap_or_default()
        };
        let off = Facts { namespace: namespaces_are_off(Step::Unshare), ..plain_user() };
        let none = Facts { max_user_namespaces: Some(0), ..off.clone() };
        assert_eq!(enable(&none, "namespace"), "sudo sysctl -w user.max_user_namespaces=10000");
        let restricted = |name| Facts { user_namespaces_restricted_by: Some(name), ..off.clone() };
        let debian = restricted("kernel.unprivileged_userns_clone");
        assert_eq!(
            enable(&debian, "namespace"),
            "sudo sysctl -w kernel.unprivileged_userns_clone=1"
        );
        let ubuntu = restricted("kernel.apparmor_restrict_unprivileged_userns");
        let command = "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0";
        assert_eq!(enable(&ubuntu, "namespace"), command);
        let filtered = Facts { seccomp: Some(2), ..off.clone() };
        assert!(enable(&filtered, "namespace").contains("seccomp=unconfined"));
        let root = Facts { caps: Caps { root: true, ..off.caps }, ..off.clone() };
        assert!(enable(&root, "namespace").contains("--cap-add SYS_ADMIN"));
        for name in ["set-tid", "last-pid"] {
            assert_eq!(enable(&off, name), "sudo /usr/local/bin/warmstart setup");
            let container = Facts { bounded: false, ..off.clone() };
            assert!(enable(&container, name).contains("--cap-add CHECKPOINT_RESTORE"));
            let what = "it has no max".to_owned();
            let damaged = RangeError::Malformed { path: range::PATH.into(), what };
            let damaged = Facts { pid_range: Some(Err(damaged)), ..with_capability() };
            assert!(enable(&damaged, name).starts_with("sudo warmstart setup --pid-range 1000-"));
            assert!(Report::of(&damaged).to_text().contains("pid range           PROBLEM"));
        }
        let last_pid = Some(Unavailable::NoLastPid(libc::EROFS));
        let mounted = Facts { last_pid, ..with_capability() };
        assert!(enable(&mounted, "last-pid").contains("systempaths=unconfined"));
        let nowhere = Facts { cycle: Some(Unavailable::NoCursor), ..plain_user() };
        assert_eq!(enable(&nowhere, "cycle"), "");
    }

    fn reason(facts: &Facts) -> String {
        Report::of(facts).restoring.reason.unwrap()
    }

    #[test]
    fn what_stands_in_the_way_is_named() {
        let plain = Facts { namespace: namespaces_are_off(Step::Unshare), ..plain_user() };
        let sealed = Facts { vdso_sealed: Some(true), ..with_capability() };
        assert!(reason(&sealed).contains("seals the vDSO"));
        let container = Facts { bounded: false, ..plain.clone() };
        assert!(reason(&container).contains("bounding set"));
        let no_new_privs = Facts { no_new_privs: true, ..plain.clone() };
        assert!(reason(&no_new_privs).contains("no_new_privs"));
        let nosuid = Facts { nosuid: true, ..plain.clone() };
        assert!(reason(&nosuid).contains("nosuid"));
        let old = Facts { set_tid: SetTid::NoSetTid, ..plain };
        assert!(reason(&old).contains("5.5"));
        let mut full = with_capability();
        full.cache.free = Some(1000);
        assert!(reason(&full).contains("less than an image takes"));
    }

    #[test]
    fn a_noexec_cache_is_worth_knowing_and_no_problem() {
        let mut facts = with_capability();
        facts.cache.noexec = true;
        let report = Report::of(&facts);
        assert!(report.restoring.works);
        assert!(report.to_text().contains("mounted noexec: images are copied"));
    }

    #[test]
    fn the_clock_rule_depends_on_time_namespaces() {
        let clock = |facts: &Facts| {
            let checks = Report::of(facts).checks;
            checks.into_iter().find(|check| check.name == "clock").unwrap().found
        };
        assert!(clock(&plain_user()).ends_with("are restored, in a time namespace"));
        let without = Facts { time_namespaces: false, ..plain_user() };
        assert!(clock(&without).ends_with("are captured anew"));
        let off = Facts { namespace: namespaces_are_off(Step::Unshare), ..plain_user() };
        assert!(clock(&off).ends_with("are captured anew"));
    }

    #[test]
    fn capturing_depends_on_yama() {
        let strict = Facts { ptrace_scope: Some(2), ..with_capability() };
        let report = Report::of(&strict);
        assert!(report.restoring.works && !report.capturing.works);
        assert!(report.to_text().contains("try: sudo sysctl kernel.yama.ptrace_scope=1"));
    }
}
