use std::io::IoSlice;
use std::os::fd::RawFd;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::*;

fn own_pid() -> i32 {
    i32::try_from(std::process::id()).unwrap()
}

fn caller_in(dir: &Path) -> (UnixDatagram, OsString) {
    let path = dir.join("caller");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    (socket, path.into())
}

fn received(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 9000];
    let len = socket.recv(&mut buffer).unwrap();
    String::from_utf8(buffer[..len].to_vec()).unwrap()
}

#[test]
fn ready_is_seen_and_everything_is_passed_on() {
    let dir = tempfile::tempdir().unwrap();
    let (caller, address) = caller_in(dir.path());
    let mut ours = NotifySocket::bind(&dir.path().join("ours"), Some(&address)).unwrap();
    let program = UnixDatagram::unbound().unwrap();
    program.send_to(b"STATUS=READY=1 soon\nX_READY=1", ours.path()).unwrap();
    ours.relay(own_pid());
    assert!(!ours.is_ready());
    assert_eq!(received(&caller), "STATUS=READY=1 soon\nX_READY=1");
    let message = format!("STATUS=up\nMAINPID={}\nREADY=1\n", own_pid());
    program.send_to(message.as_bytes(), ours.path()).unwrap();
    program.send_to(b"MAINPID=1", ours.path()).unwrap();
    ours.relay(own_pid());
    assert!(ours.is_ready());
    // In this test the launcher is the program, so nothing changes.
    assert_eq!(received(&caller), message);
    assert_eq!(received(&caller), "MAINPID=1");
}

#[test]
fn the_main_process_is_the_launcher() {
    let message = Datagram::of("READY=1\nMAINPID=77\nMAINPID=778\n").with_main_pid(77, 5);
    assert!(message.says("MAINPID=5") && message.says("MAINPID=778") && message.says("READY=1"));
    assert!(!message.says("MAINPID=77"));
}

#[test]
fn messages_of_others_are_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let (caller, address) = caller_in(dir.path());
    caller.set_nonblocking(true).unwrap();
    let mut ours = NotifySocket::bind(&dir.path().join("ours"), Some(&address)).unwrap();
    let mut program = std::process::Command::new("sleep").arg("9").spawn().unwrap();
    UnixDatagram::unbound().unwrap().send_to(b"READY=1", ours.path()).unwrap();
    ours.relay(i32::try_from(program.id()).unwrap());
    program.kill().unwrap();
    program.wait().unwrap();
    assert!(!ours.is_ready());
    assert!(caller.recv(&mut [0; 10]).is_err());
}

#[test]
fn descriptors_travel_and_our_copies_are_closed() {
    let dir = tempfile::tempdir().unwrap();
    let (caller, address) = caller_in(dir.path());
    let mut ours = NotifySocket::bind(&dir.path().join("ours"), Some(&address)).unwrap();
    let (read, write) = nix::unistd::pipe().unwrap();
    let sender = datagram_socket().unwrap();
    let fds: [RawFd; 1] = [write.as_raw_fd()];
    let to = UnixAddr::new(ours.path()).unwrap();
    sendmsg(
        sender.as_raw_fd(),
        &[IoSlice::new(b"BARRIER=1")],
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::empty(),
        Some(&to),
    )
    .unwrap();
    drop(write);
    ours.relay(own_pid());
    let at_the_caller = Datagram::receive(&OwnedFd::from(caller)).unwrap().unwrap();
    assert!(at_the_caller.says("BARRIER=1"));
    drop(at_the_caller);
    // End of file, as soon as nobody has the other end any more.
    assert_eq!(nix::unistd::read(&read, &mut [0; 1]), Ok(0));
}

#[test]
fn a_full_caller_makes_messages_wait_and_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (caller, address) = caller_in(dir.path());
    let mut ours = NotifySocket::bind(&dir.path().join("ours"), Some(&address)).unwrap();
    let program = UnixDatagram::unbound().unwrap();
    program.set_nonblocking(true).unwrap();
    let mut sent = 0;
    while !ours.is_stuck() {
        assert!(sent < 100_000);
        program.send_to(format!("STATUS={sent}").as_bytes(), ours.path()).unwrap();
        sent += 1;
        ours.relay(own_pid());
    }
    for expected in 0..sent {
        assert_eq!(received(&caller), format!("STATUS={expected}"));
        ours.relay(own_pid());
    }
    assert!(!ours.is_stuck());
}

#[test]
fn too_long_a_message_is_dropped_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut ours = NotifySocket::bind(&dir.path().join("ours"), None).unwrap();
    let program = UnixDatagram::unbound().unwrap();
    let mut message = b"READY=1\n".to_vec();
    message.resize(10_000, b'x');
    program.send_to(&message, ours.path()).unwrap();
    ours.relay(own_pid());
    assert!(!ours.is_ready());
    program.send_to(b"READY=1", ours.path()).unwrap();
    ours.relay(own_pid());
    assert!(ours.is_ready());
}

#[test]
fn a_path_is_taken_again_only_from_the_dead() {
    let dir = tempfile::tempdir().unwrap();
    let first = NotifySocket::bind(&dir.path().join("ours"), None).unwrap();
    let path = first.path().to_owned();
    assert!(matches!(NotifySocket::rebind(&path, None), Err(NotifyError::InUse(_))));
    drop(first);
    assert!(!path.exists());
    drop(UnixDatagram::bind(&path).unwrap());
    assert!(path.exists(), "as a killed launcher leaves it");
    let again = NotifySocket::rebind(&path, None).unwrap();
    assert_eq!(again.path(), path);
}

#[test]
fn bad_directories_and_addresses_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let long = dir.path().join("x".repeat(90));
    let error = NotifySocket::bind(&long, None).unwrap_err().to_string();
    assert!(error.contains("longer than a socket's may be"), "{error}");
    let open = dir.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
    let error = NotifySocket::bind(&open, None).unwrap_err().to_string();
    assert!(error.contains("others may write to it"), "{error}");
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(NotifySocket::bind(&file, None), Err(NotifyError::Directory { .. })));
    for address in ["vsock:2:1234", "relative", "@"] {
        let bound = NotifySocket::bind(&dir.path().join("ours"), Some(OsStr::new(address)));
        assert!(matches!(bound, Err(NotifyError::Address(_))), "{address}");
        assert!(tell(OsStr::new(address), "READY=1").is_err());
    }
    assert!(tell(dir.path().join("nobody").as_os_str(), "READY=1").is_err());
}

#[test]
fn abstract_callers_are_told() {
    use std::os::linux::net::SocketAddrExt;
    let name = format!("warmstart-test-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let caller = UnixDatagram::bind_addr(&address).unwrap();
    tell(OsStr::new(&format!("@{name}")), "READY=1").unwrap();
    assert_eq!(received(&caller), "READY=1");
}

#[test]
fn a_socket_is_wanted_if_asked_for_or_if_the_caller_has_one() {
    let caller = OsStr::new("/run/systemd/notify");
    assert!(!wants_socket(&[], None));
    assert!(!wants_socket(&[Probe::Port(None)], Some(OsStr::new(""))));
    assert!(wants_socket(&[], Some(caller)));
    assert!(wants_socket(&[Probe::Port(None)], Some(caller)));
    assert!(wants_socket(&[Probe::Port(None), Probe::Notify], None));
}
