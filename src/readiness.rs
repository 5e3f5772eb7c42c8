//! When a program is ready to be captured.

/// A condition of readiness (`--ready`).
#[derive(Debug, Clone)]
pub enum Probe {
    /// `notify`: READY=1 through NOTIFY_SOCKET (`sd_notify(3)`).
    Notify,
}

impl std::str::FromStr for Probe {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "notify" { Ok(Self::Notify) } else { Err("no such probe".into()) }
    }
}
