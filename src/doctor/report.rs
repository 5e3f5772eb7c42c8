//! From facts to a report: pure.

use super::{Ability, Check, Facts, Report, Strategy, Verdict};
use crate::sys::support::SetTid;
use crate::ui::{Align, Table, bytes};

impl Ability {
    fn yes() -> Self {
        Self { works: true, reason: None, enable: None }
    }

    fn no(reason: impl Into<String>, enable: Option<String>) -> Self {
        Self { works: false, reason: Some(reason.into()), enable }
    }
}

impl Report {
    /// Judges the facts.
    pub fn of(facts: &Facts) -> Self {
        let set_tid = set_tid(facts);
        Self {
            schema_version: 1,
            version: env!("CARGO_PKG_VERSION"),
            uid: facts.uid,
            restoring: restoring(facts, &set_tid),
            capturing: capturing(facts),
            strategies: vec![Strategy { name: "set-tid", ability: set_tid }],
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
        }
        line(&mut text, "capturing", &self.capturing);
        line(&mut text, &format!("restoring as uid {}", self.uid), &self.restoring);
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

/// Judges the strategy `set-tid`: why pids cannot be chosen, and what to do.
fn set_tid(facts: &Facts) -> Ability {
    let binary = facts.binary.display();
    match facts.set_tid {
        SetTid::Works => Ability::yes(),
        SetTid::NoClone3 => {
            Ability::no("clone3 is missing (Linux before 5.3) or filtered by seccomp", None)
        }
        SetTid::NoSetTid => Ability::no("clone3 has no set_tid (Linux before 5.5)", None),
        SetTid::Failed(errno) => {
            let error = std::io::Error::from_raw_os_error(errno);
            Ability::no(format!("clone3 with set_tid: {error}"), None)
        }
        SetTid::NotPermitted if !facts.bounded => Ability::no(
            "CAP_CHECKPOINT_RESTORE is not in the bounding set (a container?)",
            Some("docker run --cap-add CHECKPOINT_RESTORE …".into()),
        ),
        SetTid::NotPermitted if facts.no_new_privs => {
            Ability::no("no_new_privs is set, under which file capabilities do nothing", None)
        }
        SetTid::NotPermitted if facts.nosuid => Ability::no(
            format!("{binary} is on a file system mounted nosuid"),
            Some(format!(
                "sudo install {binary} /usr/local/bin/ && sudo /usr/local/bin/warmstart setup"
            )),
        ),
        SetTid::NotPermitted => Ability::no(
            format!("{binary} has no file capability CAP_CHECKPOINT_RESTORE"),
            Some(format!("sudo {binary} setup")),
        ),
    }
}

fn restoring(facts: &Facts, set_tid: &Ability) -> Ability {
    if !cfg!(target_arch = "x86_64") {
        return Ability::no("the native engine is for x86-64", None);
    }
    if facts.vdso_sealed == Some(true) {
        return Ability::no("the kernel seals the vDSO (CONFIG_MSEAL_SYSTEM_MAPPINGS)", None);
    }
    if !set_tid.works {
        return set_tid.clone();
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
        check("clone3 set_tid", facts.set_tid == SetTid::Works, set_tid_text(facts.set_tid)),
        check("capability", facts.caps.can_choose_pids(), capability_text(facts)),
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
    format!("{}{state}, {free} free", facts.cache.path.display())
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
    use crate::privilege::Caps;
    use crate::privilege::file::FileCaps;
    use crate::sys::capability::Sets;

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
            file_caps: Some(FileCaps::OURS),
            ..plain_user()
        }
    }

    #[test]
    fn a_plain_user_learns_the_one_command() {
        insta::assert_snapshot!(Report::of(&plain_user()).to_text(), @r"
        check                        found
        kernel                       6.18.0
        clone3 set_tid      PROBLEM  not permitted
        capability          PROBLEM  ordinary user without CAP_CHECKPOINT_RESTORE
        binary                       /usr/local/bin/warmstart: no file capability
        ptrace              ok       kernel.yama.ptrace_scope = 1
        vDSO                ok       can be moved
        checkpoint support  ok       PR_GET_TID_ADDRESS yes, kcmp yes, map_files yes
        cache               ok       /home/u/.cache/warmstart, to be made, 12.3 GB free
        pid_max                      32768
        namespaces                   user: yes; time: yes

        pids by set-tid: no: /usr/local/bin/warmstart has no file capability CAP_CHECKPOINT_RESTORE
        capturing: yes
        restoring as uid 1000: no: /usr/local/bin/warmstart has no file capability CAP_CHECKPOINT_RESTORE

          try: sudo /usr/local/bin/warmstart setup
        ");
    }

    #[test]
    fn the_capability_is_enough() {
        let report = Report::of(&with_capability());
        assert!(
            report.restoring.works && report.capturing.works && report.strategies[0].ability.works
        );
        assert!(!report.to_text().contains("PROBLEM"), "{}", report.to_text());
    }

    fn reason(facts: &Facts) -> String {
        Report::of(facts).restoring.reason.unwrap()
    }

    #[test]
    fn what_stands_in_the_way_is_named() {
        let sealed = Facts { vdso_sealed: Some(true), ..with_capability() };
        assert!(reason(&sealed).contains("seals the vDSO"));
        let container = Facts { bounded: false, ..plain_user() };
        assert!(reason(&container).contains("bounding set"));
        let no_new_privs = Facts { no_new_privs: true, ..plain_user() };
        assert!(reason(&no_new_privs).contains("no_new_privs"));
        let nosuid = Facts { nosuid: true, ..plain_user() };
        assert!(reason(&nosuid).contains("nosuid"));
        let old = Facts { set_tid: SetTid::NoSetTid, ..plain_user() };
        assert!(reason(&old).contains("5.5"));
        let mut noexec = with_capability();
        noexec.cache.noexec = true;
        assert!(reason(&noexec).contains("noexec"));
    }

    #[test]
    fn capturing_depends_on_yama() {
        let strict = Facts { ptrace_scope: Some(2), ..with_capability() };
        let report = Report::of(&strict);
        assert!(report.restoring.works && !report.capturing.works);
        assert!(report.to_text().contains("try: sudo sysctl kernel.yama.ptrace_scope=1"));
    }
}
