//! Addresses and states of sockets, as the format holds them.

use std::net::IpAddr;

/// TCP states (`include/net/tcp_states.h`).
pub const TCP_CLOSE: u32 = 7;
/// A socket that listens.
pub const TCP_LISTEN: u32 = 10;

/// Returns an address as the image holds it: words of network order.
pub fn address_words(ip: IpAddr) -> Vec<u32> {
    match ip {
        IpAddr::V4(ip) => vec![u32::from_ne_bytes(ip.octets())],
        IpAddr::V6(ip) => {
            let octets = ip.octets();
            octets.as_chunks::<4>().0.iter().map(|word| u32::from_ne_bytes(*word)).collect()
        }
    }
}

/// Returns the address that an image holds.
pub fn address_of(words: &[u32], family: i32) -> Option<IpAddr> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    match family {
        libc::AF_INET => Some(IpAddr::from(<[u8; 4]>::try_from(bytes.get(..4)?).ok()?)),
        libc::AF_INET6 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes.get(..16)?).ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_image() {
        for ip in ["127.0.0.1", "10.1.2.3"] {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(address_of(&address_words(ip), libc::AF_INET), Some(ip));
        }
        let ip: IpAddr = "fe80::1:2".parse().unwrap();
        assert_eq!(address_of(&address_words(ip), libc::AF_INET6), Some(ip));
        assert_eq!(address_of(&[], libc::AF_INET), None);
    }
}
