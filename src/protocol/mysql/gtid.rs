//! Global transaction identifiers: which transactions a server has, and whether another lacks some of them.

use std::collections::BTreeMap;
use std::fmt;

/// Longest text that is parsed; fragmented sets of real servers stay far below.
pub(super) const MAX_TEXT_BYTES: usize = 1 << 20;
/// MySQL 8.3: a tag is at most 32 characters.
const MAX_TAG_BYTES: usize = 32;
/// The server's own limit is a signed 64-bit number.
const MAX_TRANSACTION: u64 = i64::MAX as u64;

/// The text is no set or position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a GTID set: {0}")]
pub struct GtidError(&'static str);

/// MySQL: `uuid:1-5:7-9,uuid:tag:1-3`, as in `@@GLOBAL.gtid_executed`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GtidSet {
    /// Inclusive ranges: ascending, apart from each other, never none.
    sources: BTreeMap<Source, Vec<(u64, u64)>>,
}

/// Who numbered a transaction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Source {
    uuid: u128,
    tag: String,
}

/// MariaDB: `domain-server-sequence` per domain, as in `@@GLOBAL.gtid_current_pos`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GtidPosition {
    domains: BTreeMap<u32, (u64, u32)>,
}

impl GtidSet {
    /// Parses a set; blanks and line breaks are skipped, the empty text is the empty set.
    ///
    /// # Errors
    /// Anything that a server does not write.
    pub fn parse(text: &str) -> Result<Self, GtidError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(GtidError("too long"));
        }
        let mut set = Self::default();
        let parts = text.split(',').map(str::trim);
        for part in parts.filter(|part| !part.is_empty()) {
            let mut fields = part.split(':').map(str::trim);
            let uuid = parse_uuid(fields.next().unwrap_or_default())?;
            let mut tag = String::new();
            let mut is_empty = true;
            for field in fields {
                if field.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
                    tag = parse_tag(field)?;
                    is_empty = true;
                    continue;
                }
                let range = parse_range(field)?;
                let tag = tag.clone();
                let source = Source { uuid, tag };
                set.sources.entry(source).or_default().push(range);
                is_empty = false;
            }
            if is_empty {
                return Err(GtidError("a source without transactions"));
            }
        }
        set.sources.values_mut().for_each(normalize);
        Ok(set)
    }

    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Every transaction of `other` is in this set.
    pub fn contains(&self, other: &Self) -> bool {
        other.sources.iter().all(|(source, ranges)| {
            let own = self.sources.get(source).map_or(&[][..], Vec::as_slice);
            ranges.iter().all(|range| contains_range(own, *range))
        })
    }

    /// How many transactions the set has; saturates.
    pub fn transactions(&self) -> u64 {
        let ranges = self.sources.values().flatten();
        ranges.fold(0, |sum: u64, (first, last)| {
            sum.saturating_add(last - first + 1)
        })
    }
}

impl GtidPosition {
    /// Parses a position; several entries of one domain (as in `gtid_binlog_state`) mean the highest.
    ///
    /// # Errors
    /// Anything that a server does not write.
    pub fn parse(text: &str) -> Result<Self, GtidError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(GtidError("too long"));
        }
        let mut position = Self::default();
        let parts = text.split(',').map(str::trim);
        for part in parts.filter(|part| !part.is_empty()) {
            let mut fields = part.split('-');
            let (Some(domain), Some(server), Some(sequence), None) =
                (fields.next(), fields.next(), fields.next(), fields.next())
            else {
                return Err(GtidError("not domain-server-sequence"));
            };
            let domain = parse_u32(domain)?;
            let reached = (parse_number(sequence)?, parse_u32(server)?);
            let highest = position.domains.entry(domain).or_insert(reached);
            *highest = reached.max(*highest);
        }
        Ok(position)
    }

    pub fn is_empty(&self) -> bool {
        self.domains.is_empty()
    }

    /// Every domain of `other` is at least as far here.
    ///
    /// The same number from another server is another transaction: the histories have parted.
    pub fn contains(&self, other: &Self) -> bool {
        other.domains.iter().all(|(domain, (sequence, server))| {
            self.domains
                .get(domain)
                .is_some_and(|(own_sequence, own_server)| {
                    own_sequence > sequence || own_sequence == sequence && own_server == server
                })
        })
    }
}

impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (source, ranges)) in self.sources.iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            let hex = format!("{:032x}", source.uuid);
            let (a, b, c) = (&hex[..8], &hex[8..12], &hex[12..16]);
            let (d, e) = (&hex[16..20], &hex[20..]);
            write!(f, "{separator}{a}-{b}-{c}-{d}-{e}")?;
            if !source.tag.is_empty() {
                write!(f, ":{}", source.tag)?;
            }
            for (first, last) in ranges {
                match first == last {
                    true => write!(f, ":{first}")?,
                    false => write!(f, ":{first}-{last}")?,
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for GtidPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (domain, (sequence, server))) in self.domains.iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            write!(f, "{separator}{domain}-{server}-{sequence}")?;
        }
        Ok(())
    }
}

fn parse_uuid(text: &str) -> Result<u128, GtidError> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let is_uuid = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    match u128::from_str_radix(&digits, 16) {
        Ok(uuid) if is_uuid => Ok(uuid),
        _ => Err(GtidError("not a UUID")),
    }
}

/// Tags are case-insensitive.
fn parse_tag(text: &str) -> Result<String, GtidError> {
    let is_tag = text.len() <= MAX_TAG_BYTES
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    match is_tag {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(GtidError("not a tag")),
    }
}

fn parse_range(text: &str) -> Result<(u64, u64), GtidError> {
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (parse_number(first)?, parse_number(last)?),
        None => (parse_number(text)?, parse_number(text)?),
    };
    match first >= 1 && first <= last {
        true => Ok((first, last)),
        false => Err(GtidError("not a range")),
    }
}

fn parse_number(text: &str) -> Result<u64, GtidError> {
    match text.parse() {
        Ok(number) if number <= MAX_TRANSACTION && text.as_bytes()[0] != b'+' => Ok(number),
        _ => Err(GtidError("not a number")),
    }
}

fn parse_u32(text: &str) -> Result<u32, GtidError> {
    u32::try_from(parse_number(text)?).map_err(|_| GtidError("not a number"))
}

/// Sorts, and joins what overlaps or touches.
fn normalize(ranges: &mut Vec<(u64, u64)>) {
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let touches = next.0 <= kept.1 + 1;
        if touches {
            kept.1 = kept.1.max(next.1);
        }
        touches
    });
}

/// One of `own`, which are apart from each other, covers the whole of `range`.
fn contains_range(own: &[(u64, u64)], range: (u64, u64)) -> bool {
    let after = own.partition_point(|(first, _)| *first <= range.0);
    after
        .checked_sub(1)
        .is_some_and(|index| own[index].1 >= range.1)
}

pub(super) fn fuzz(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    if let Ok(set) = GtidSet::parse(text) {
        assert!(set.contains(&set));
        assert!(set.contains(&GtidSet::default()));
    }
    if let Ok(position) = GtidPosition::parse(text) {
        assert!(position.contains(&position));
        assert_eq!(GtidPosition::parse(&position.to_string()), Ok(position));
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const B: &str = "4E11FA47-71CA-11E1-9E33-C80AA9429562";

    fn set(text: &str) -> GtidSet {
        GtidSet::parse(text).unwrap()
    }

    fn position(text: &str) -> GtidPosition {
        GtidPosition::parse(text).unwrap()
    }

    #[test]
    fn sets_contain_their_parts() {
        let whole = set(&format!("{A}:1-5:7-9,\n{B}:1-3"));
        assert_eq!(whole.transactions(), 11);
        for (part, contained) in [
            (String::new(), true),
            (format!("{A}:1-5"), true),
            (format!("{A}:2-3:8,{B}:3"), true),
            (format!("{A}:6"), false),
            (format!("{A}:5-7"), false),
            (format!("{A}:9-10"), false),
            (format!("{B}:1-4"), false),
            (format!("{A}:tag:1"), false),
        ] {
            assert_eq!(whole.contains(&set(&part)), contained, "{part}");
        }
        assert!(!GtidSet::default().contains(&whole));
    }

    #[test]
    fn sets_are_written_in_one_way() {
        let untidy = set(&format!(" {A} : 7-9:1:2-3:3-5 , "));
        assert_eq!(untidy.to_string(), format!("{A}:1-5:7-9"));
        let tagged = set(&format!("{A}:1-3:BLUE:1:3:green:2"));
        assert_eq!(tagged.transactions(), 6);
        assert_eq!(tagged, set(&tagged.to_string()));
        assert!(tagged.contains(&set(&format!("{A}:blue:3"))));
        assert!(!tagged.contains(&set(&format!("{A}:blue:2"))));
    }

    #[test]
    fn what_no_server_writes_is_refused() {
        let refused = [
            A.to_owned(),
            format!("{A}:"),
            format!("{A}:0"),
            format!("{A}:5-1"),
            format!("{A}:1-2-3"),
            format!("{A}:+1"),
            format!("{A}:9223372036854775808"),
            format!("{A}:tag"),
            format!("{A}:{}:1", "t".repeat(33)),
            format!("{A}:t\u{e9}g:1"),
            "3e11fa47:1".to_owned(),
            "+e11fa47-71ca-11e1-9e33-c80aa9429562:1".to_owned(),
            ":1".to_owned(),
            "0-1-100".to_owned(),
        ];
        for text in refused {
            assert!(GtidSet::parse(&text).is_err(), "{text}");
        }
        for text in ["0-1", "0-1-2-3", "x-1-2", "0-1-", "4294967296-1-1", A] {
            assert!(GtidPosition::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn positions_compare_domain_by_domain() {
        let ahead = position("0-1-100,1-1-5");
        assert!(ahead.contains(&position("0-1-100")));
        assert!(ahead.contains(&position("0-2-99,1-1-5")));
        assert!(ahead.contains(&position("")));
        assert!(!ahead.contains(&position("0-1-101")));
        assert!(!ahead.contains(&position("2-1-1")));
        assert!(!position("").contains(&ahead));
        assert!(!ahead.contains(&position("0-2-100")), "histories parted");
        assert_eq!(position("0-1-5,0-2-7,0-3-6").to_string(), "0-2-7");
    }

    fn ranges() -> impl Strategy<Value = Vec<(u64, u64)>> {
        let range = (1_u64..60, 0_u64..6).prop_map(|(first, more)| (first, first + more));
        vec(range, 1..8)
    }

    fn text(ranges: &[(u64, u64)]) -> String {
        let ranges: Vec<String> = ranges.iter().map(|(a, b)| format!("{a}-{b}")).collect();
        format!("{A}:{}", ranges.join(":"))
    }

    proptest! {
        #[test]
        fn containment_is_that_of_sets_of_numbers(a in ranges(), b in ranges()) {
            let numbers = |ranges: &[(u64, u64)]| -> std::collections::BTreeSet<u64> {
                ranges.iter().flat_map(|(first, last)| *first..=*last).collect()
            };
            let (a_set, b_set) = (set(&text(&a)), set(&text(&b)));
            prop_assert_eq!(a_set.contains(&b_set), numbers(&a).is_superset(&numbers(&b)));
            prop_assert_eq!(a_set.transactions(), numbers(&a).len() as u64);
            prop_assert_eq!(&set(&a_set.to_string()), &a_set);
        }
    }
}
