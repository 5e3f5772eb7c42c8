//! The multicast groups that a socket is a member of.
//!
//! The kernel lists groups by interface (`/proc/net/igmp`, `/proc/net/igmp6`), not
//! by socket; but a socket can be asked for its filter of one group, and has none
//! where it is no member (`MCAST_MSFILTER`, `getsockopt(2)`, EADDRNOTAVAIL).

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;

use crate::restore::planner::SocketOption;
use crate::sys::socket as sys;

/// `MCAST_JOIN_GROUP` and `MCAST_MSFILTER` (`linux/in.h`).
const MCAST_JOIN_GROUP: i32 = 42;
const MCAST_MSFILTER: i32 = 48;
/// `struct group_req`: an interface, and an address from offset 8 on.
const LEN_GROUP_REQ: usize = 136;
/// `struct group_filter` without senders: the same, then its mode and their
/// number, which are 0 for a plain membership (`MCAST_EXCLUDE`, nobody).
const LEN_GROUP_FILTER: usize = 144;

/// A group on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Group {
    interface: u32,
    address: IpAddr,
}

/// Returns the memberships of a socket as the options that join them; an error
/// says what cannot be joined so.
pub fn memberships(socket: BorrowedFd<'_>, family: i32) -> Result<Vec<SocketOption>, &'static str> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let mut groups = Vec::new();
    if [libc::AF_INET, libc::AF_INET6].contains(&family) {
        groups.extend(groups_v4(&read("/proc/self/net/igmp")));
    }
    if family == libc::AF_INET6 {
        groups.extend(groups_v6(&read("/proc/self/net/igmp6")));
    }
    let mut options = Vec::new();
    for group in groups {
        let (level, request) = group.request();
        let mut filter = [0; LEN_GROUP_FILTER];
        filter[..LEN_GROUP_REQ].copy_from_slice(&request);
        if sys::option(socket, level, MCAST_MSFILTER, &mut filter).is_err() {
            continue;
        }
        if filter[LEN_GROUP_REQ..].iter().any(|byte| *byte != 0) {
            return Err("a member of a multicast group for some senders only");
        }
        let value = request.to_vec();
        options.push(SocketOption { level, name: MCAST_JOIN_GROUP, value });
    }
    Ok(options)
}

impl Group {
    /// Returns level and `struct group_req`.
    fn request(&self) -> (i32, [u8; LEN_GROUP_REQ]) {
        let mut request = [0; LEN_GROUP_REQ];
        request[..4].copy_from_slice(&self.interface.to_ne_bytes());
        let address = sys::socket_address(self.address, 0);
        request[8..8 + address.len()].copy_from_slice(&address);
        let level = if self.address.is_ipv4() { libc::IPPROTO_IP } else { libc::IPPROTO_IPV6 };
        (level, request)
    }
}

/// Parses a line for each interface, its number first, and behind it a line for
/// each group, its address first as one number.
fn groups_v4(text: &str) -> Vec<Group> {
    let mut groups = Vec::new();
    let mut interface = 0;
    for line in text.lines().skip(1) {
        let first = line.split_ascii_whitespace().next().unwrap_or_default();
        if !line.starts_with(char::is_whitespace) {
            interface = first.parse().unwrap_or(0);
        } else if let Ok(number) = u32::from_str_radix(first, 16) {
            let address = Ipv4Addr::from(number.to_ne_bytes()).into();
            groups.push(Group { interface, address });
        }
    }
    groups
}

/// Parses number and name of an interface and a group's address, a line each.
fn groups_v6(text: &str) -> Vec<Group> {
    let parse = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let interface = words.next()?.parse().ok()?;
        let address = u128::from_str_radix(words.nth(1)?, 16).ok()?;
        Some(Group { interface, address: Ipv6Addr::from(address).into() })
    };
    text.lines().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    #[test]
    fn groups_are_read_as_the_kernel_lists_them() {
        let v4 = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
                  1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n\
                  2\teth0      :     2      V3\n\t\t\t\tFB0000E0     1 0:00000000\t\t0\n";
        let group =
            |interface, address: &str| Group { interface, address: address.parse().unwrap() };
        assert_eq!(groups_v4(v4), [group(1, "224.0.0.1"), group(2, "224.0.0.251")]);
        let v6 = "1    lo              ff020000000000000000000000000001     1 0000000C 0\n";
        assert_eq!(groups_v6(v6), [group(1, "ff02::1")]);
        assert_eq!(groups_v4(""), []);
    }

    #[test]
    fn a_socket_is_a_member_of_what_it_has_joined() {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        assert_eq!(memberships(socket.as_fd(), libc::AF_INET), Ok(vec![]));
        // On the loopback interface, by its address.
        let group = Ipv4Addr::new(239, 7, 7, 7);
        if socket.join_multicast_v4(&group, &Ipv4Addr::LOCALHOST).is_err() {
            return;
        }
        let joined = memberships(socket.as_fd(), libc::AF_INET).unwrap();
        assert_eq!(joined.len(), 1);
        assert_eq!(joined[0].value[12..16], [239, 7, 7, 7]);
        let other = UdpSocket::bind("0.0.0.0:0").unwrap();
        assert_eq!(memberships(other.as_fd(), libc::AF_INET), Ok(vec![]));
    }
}
