//! Each way to a pid: whether it works here, and the one command that would
//! make it. Pure.

use super::{Ability, Facts, Strategy};
use crate::pids::range::PidRange;
use crate::pids::{self, Unavailable};
use crate::sys::support::SetTid;

/// Judges all of them, the best first.
pub(super) fn all(facts: &Facts) -> Vec<Strategy> {
    let judged = |strategy: pids::Strategy| match strategy {
        pids::Strategy::SetTid => set_tid(facts),
        pids::Strategy::LastPid => last_pid(facts),
        pids::Strategy::Namespace => namespace(facts),
        pids::Strategy::Cycle => cycle(facts),
    };
    pids::Strategy::ALL
        .into_iter()
        .map(|strategy| Strategy { name: strategy.name(), ability: judged(strategy) })
        .collect()
}

fn set_tid(facts: &Facts) -> Ability {
    match facts.set_tid {
        SetTid::Works => in_range(facts),
        SetTid::NoClone3 => {
            Ability::no("clone3 is missing (Linux before 5.3) or filtered by seccomp", None)
        }
        SetTid::NoSetTid => Ability::no("clone3 has no set_tid (Linux before 5.5)", None),
        SetTid::Failed(errno) => {
            let error = std::io::Error::from_raw_os_error(errno);
            Ability::no(format!("clone3 with set_tid: {error}"), None)
        }
        SetTid::NotPermitted => without_capability(facts),
    }
}

fn last_pid(facts: &Facts) -> Ability {
    match facts.last_pid {
        None => in_range(facts),
        Some(Unavailable::NotPermitted) => without_capability(facts),
        // Containers have it mounted so.
        Some(reason @ Unavailable::NoLastPid(libc::EROFS)) => Ability::no(
            reason.to_string(),
            Some("docker run --security-opt systempaths=unconfined …".into()),
        ),
        Some(reason) => Ability::no(reason.to_string(), None),
    }
}

/// Pids may be chosen: any, or those of a range that can be relied on.
fn in_range(facts: &Facts) -> Ability {
    match &facts.pid_range {
        Some(Err(error)) => Ability::no(
            error.to_string(),
            Some(format!("sudo warmstart setup --pid-range {}", PidRange::DEFAULT)),
        ),
        _ => Ability::yes(),
    }
}

/// Says why there is no capability, and what to do.
fn without_capability(facts: &Facts) -> Ability {
    let binary = facts.binary.display();
    if !facts.bounded {
        return Ability::no(
            "CAP_CHECKPOINT_RESTORE is not in the bounding set (a container?)",
            Some("docker run --cap-add CHECKPOINT_RESTORE …".into()),
        );
    }
    if facts.no_new_privs {
        let why = "no_new_privs is set, under which file capabilities do nothing";
        return Ability::no(why, None);
    }
    if facts.nosuid {
        return Ability::no(
            format!("{binary} is on a file system mounted nosuid"),
            Some(format!(
                "sudo install {binary} /usr/local/bin/ && sudo /usr/local/bin/warmstart setup"
            )),
        );
    }
    Ability::no(
        format!("{binary} has no file capability CAP_CHECKPOINT_RESTORE"),
        Some(format!("sudo {binary} setup")),
    )
}

fn namespace(facts: &Facts) -> Ability {
    let Some(reason) = facts.namespace else { return Ability::yes() };
    let sysctl = |name: &str, value: u32| Some(format!("sudo sysctl -w {name}={value}"));
    let enable = match facts.user_namespaces_restricted_by {
        _ if facts.max_user_namespaces == Some(0) => sysctl("user.max_user_namespaces", 10000),
        // Root needs no user namespace.
        _ if facts.caps.root => Some("docker run --cap-add SYS_ADMIN …".into()),
        Some(name) => sysctl(name, u32::from(name.ends_with("clone"))),
        None if facts.seccomp == Some(2) => {
            Some("docker run --security-opt seccomp=unconfined …".into())
        }
        None => None,
    };
    Ability::no(reason.to_string(), enable)
}

fn cycle(facts: &Facts) -> Ability {
    facts.cycle.map_or_else(Ability::yes, |reason| Ability::no(reason.to_string(), None))
}
