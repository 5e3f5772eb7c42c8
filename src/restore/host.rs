//! What of this machine an image is only valid with.

use std::fs::File;
use std::io::Read;

use nix::time::{ClockId, clock_gettime};

use super::plan::{KernelArea, KernelAreaKind, Plan};
use crate::sys::{arch, auxv};

/// A second's nanoseconds.
const NS: u64 = 1_000_000_000;

/// Which clocks a restored program has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// The machine's: monotonic time has jumped since the capture.
    Machines,
    /// Its own, in a time namespace: they go on from the capture.
    Own,
}

/// The machine, as far as a restore depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The boot's random id: monotonic time starts anew with it
    /// (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// SHA-256 of the vDSO, into which threads may have been stopped and whose
    /// addresses the C library remembers.
    pub vdso_digest: [u8; 32],
    /// The processor's extended-state features (XCR0).
    pub xfeatures: u64,
}

impl Host {
    /// Reads this machine.
    pub fn read() -> Self {
        Self {
            boot_id: crate::fingerprint::boot_id(),
            vdso_digest: crate::fingerprint::vdso_digest().0,
            xfeatures: arch::xfeatures(),
        }
    }

    /// Tells whether our clocks are not those that a plan's program has seen
    /// run: of another boot, or behind them, as in another time namespace. It
    /// would stand still until they have caught up.
    pub fn has_other_clocks(&self, plan: &Plan) -> bool {
        let plan = plan.file();
        let clocks = plan.clocks.as_ref().map(|then| (then.monotonic, then.boottime));
        plan.boot_id != self.boot_id || are_behind(clocks)
    }

    /// Says why a plan made on another machine cannot be used here.
    pub fn refuses(&self, plan: &Plan) -> Option<&'static str> {
        let plan = plan.file();
        if plan.vdso_digest != self.vdso_digest {
            Some("it was made under another kernel (the vDSO differs)")
        } else if plan.xfeatures & !self.xfeatures != 0 {
            Some("it was made on a processor with more features")
        } else {
            None
        }
    }
}

/// Tells whether our clocks are not those that a program has seen run
/// ([`Host::has_other_clocks`]): by the boot's id, and monotonic and boot time
/// then, in ns.
pub fn are_other_clocks(boot_id: &str, then: Option<(u64, u64)>) -> bool {
    boot_id != crate::fingerprint::boot_id() || are_behind(then)
}

fn are_behind(then: Option<(u64, u64)>) -> bool {
    let is_behind = |clock, then: u64| {
        let now = clock_gettime(clock).map(|now| now.tv_sec() as u64 * NS + now.tv_nsec() as u64);
        now.is_ok_and(|now| now < then)
    };
    then.is_some_and(|(monotonic, boottime)| {
        is_behind(ClockId::CLOCK_MONOTONIC, monotonic)
            || is_behind(ClockId::CLOCK_BOOTTIME, boottime)
    })
}

/// A memory area that the kernel gives every process, and where an image has
/// it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// Its address in this process.
    pub addr: u64,
    /// Its length in bytes.
    pub len: u64,
    /// Its address in the image.
    pub target: u64,
}

/// Says where the kernel's areas of this process belong in a restored one;
/// `None` if they are not those that the image had.
///
/// Where they lie follows from where the vDSO is, whose code reaches the others
/// at fixed distances: it is the same as in the image ([`Host::refuses`]). A
/// plan that does not know the distances has them looked up.
pub fn kernel_moves(plan: &Plan) -> Option<Vec<Move>> {
    let area = |kind| plan.file().kernel_areas.iter().find(|area| area.kind() == kind);
    let (vdso, vvar) = (area(KernelAreaKind::Vdso)?, area(KernelAreaKind::Vvar)?);
    match plan.file().len_vclock {
        Some(len_vclock) => moves(vdso, vvar, len_vclock),
        None => moves_by_name(vdso, vvar),
    }
}

fn moves(vdso: &KernelArea, vvar: &KernelArea, len_vclock: u64) -> Option<Vec<Move>> {
    let addr = auxv::vdso_address()?;
    let start = addr.checked_sub(vvar.len)?;
    let len_vvar = vvar.len.checked_sub(len_vclock)?;
    let moves = [
        Move { addr, len: vdso.len, target: vdso.addr },
        Move { addr: start, len: len_vvar, target: vvar.addr },
        Move { addr: start + len_vvar, len: len_vclock, target: vvar.addr + len_vvar },
    ];
    Some(moves.into_iter().filter(|area| area.len > 0).collect())
}

/// The same by their names in `/proc/self/maps`.
///
/// `[vvar_vclock]` (Linux 6.13) lies behind `[vvar]`, and an image has both as
/// one area.
fn moves_by_name(vdso: &KernelArea, vvar: &KernelArea) -> Option<Vec<Move>> {
    let own = own_areas()?;
    let len_of = |wanted: &[Area]| -> u64 {
        own.iter().filter(|(area, ..)| wanted.contains(area)).map(|(_, _, len)| len).sum()
    };
    let mut moves = Vec::with_capacity(3);
    for (target, parts) in [(vdso, &[Area::Vdso][..]), (vvar, &[Area::Vvar, Area::VvarVclock][..])]
    {
        if target.len != len_of(parts) {
            return None;
        }
        let mut at = target.addr;
        for (_, addr, len) in own.iter().filter(|(area, ..)| parts.contains(area)) {
            moves.push(Move { addr: *addr, len: *len, target: at });
            at += len;
        }
    }
    Some(moves)
}

/// Returns the length of `[vvar_vclock]`, 0 if there is none, if this kernel
/// maps its areas as [`kernel_moves`] takes them to be.
pub fn len_vclock() -> Option<u64> {
    let own = own_areas()?;
    let find = |wanted| own.iter().find(|(area, ..)| *area == wanted);
    let (_, vdso, _) = *find(Area::Vdso)?;
    let (_, vvar, len_vvar) = *find(Area::Vvar)?;
    let (vclock, len) = find(Area::VvarVclock).map_or((vdso, 0), |(_, addr, len)| (*addr, *len));
    (vvar + len_vvar == vclock && vclock + len == vdso).then_some(len)
}

/// Returns the kernel's areas of this process: address and length.
fn own_areas() -> Option<Vec<(Area, u64, u64)>> {
    // The kernel tells no length: a vector that grows would read it in pieces.
    let mut maps = String::with_capacity(8 << 10);
    File::open("/proc/self/maps").ok()?.take(1 << 20).read_to_string(&mut maps).ok()?;
    Some(maps.lines().filter_map(parse).collect())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Area {
    Vdso,
    Vvar,
    VvarVclock,
}

fn parse(line: &str) -> Option<(Area, u64, u64)> {
    let area = match line.rsplit(' ').next()? {
        "[vdso]" => Area::Vdso,
        "[vvar]" => Area::Vvar,
        "[vvar_vclock]" => Area::VvarVclock,
        _ => return None,
    };
    let (start, end) = line.split(' ').next()?.split_once('-')?;
    let addr = u64::from_str_radix(start, 16).ok()?;
    let end = u64::from_str_radix(end, 16).ok()?;
    Some((area, addr, end.checked_sub(addr)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_are_where_their_names_say() {
        let len_vclock = len_vclock().expect("this kernel maps them one behind the other");
        let own = own_areas().unwrap();
        let find = |wanted| own.iter().find(|(area, ..)| *area == wanted).copied();
        let (_, vdso, len_vdso) = find(Area::Vdso).unwrap();
        assert_eq!(auxv::vdso_address(), Some(vdso));
        let len = find(Area::Vvar).unwrap().2 + len_vclock;
        let area = |kind: KernelAreaKind, addr, len| KernelArea { kind: kind as i32, addr, len };
        let there = [
            area(KernelAreaKind::Vdso, 0x7000_0000, len_vdso),
            area(KernelAreaKind::Vvar, 0x7000_0000 - len, len),
        ];
        let by_name = moves_by_name(&there[0], &there[1]).unwrap();
        assert_eq!(moves(&there[0], &there[1], len_vclock).unwrap(), by_name);
        let longer = area(KernelAreaKind::Vvar, 0x6000_0000, len + 4096);
        assert_eq!(moves_by_name(&there[0], &longer), None);
    }

    #[test]
    fn the_areas_of_a_line_are_known() {
        let line =
            "7f2d6f7b9000-7f2d6f7bb000 r-xp 00000000 00:00 0                          [vdso]";
        assert_eq!(parse(line), Some((Area::Vdso, 0x7f2d_6f7b_9000, 0x2000)));
        assert_eq!(parse("7f2d6f7b9000-7f2d6f7bb000 r-xp 00000000 00:00 0 [stack]"), None);
    }
}
