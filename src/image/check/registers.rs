//! Whether a thread's registers make sense.

use super::super::ImageError;
use super::super::proto::{CoreEntry, March};
use super::{Checked, require};

/// Checks that the machine is ours and every register array has its size.
pub(super) fn check(name: &str, core: &CoreEntry) -> Checked {
    require(core.mtype() == March::X8664, name, || "is of another machine".into())?;
    let Some(info) = &core.thread_info else {
        return Err(ImageError::new(name, "thread_info is missing"));
    };
    let fpregs = &info.fpregs;
    let legacy =
        [("st_space", fpregs.st_space.len(), 32), ("xmm_space", fpregs.xmm_space.len(), 64)];
    for (what, len, expected) in legacy {
        require(len == expected, name, || format!("{what} has {len} words, not {expected}"))?;
    }
    let Some(xsave) = &fpregs.xsave else {
        return Ok(());
    };
    // A component that the machine does not have is left out as a whole.
    for (what, len, expected) in [
        ("ymmh_space", xsave.ymmh_space.len(), 64),
        ("bndreg_state", xsave.bndreg_state.len(), 8),
        ("bndcsr_state", xsave.bndcsr_state.len(), 8),
        ("opmask_reg", xsave.opmask_reg.len(), 8),
        ("zmm_upper", xsave.zmm_upper.len(), 64),
        ("hi16_zmm", xsave.hi16_zmm.len(), 128),
        ("pkru", xsave.pkru.len(), 2),
    ] {
        require(len == 0 || len == expected, name, || {
            format!("{what} has {len} words, not {expected}")
        })?;
    }
    Ok(())
}
