//! The page that was made last, for whoever asks again too soon.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;

/// A page up to this size costs half a millisecond at most, and is made for everybody.
const MAX_SMALL_BYTES: usize = 32 * 1024;
/// For so long a larger one is answered to everybody. One of 300 KB takes some three milliseconds
/// in which a worker on the same core may have to wait: that must concern far fewer than one
/// message in a hundred, however often somebody asks. Nobody plots metrics by the second.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// One page is made at a time.
#[derive(Debug, Default)]
pub struct LastPage(Mutex<Option<Page>>);

#[derive(Debug)]
struct Page {
    text: Bytes,
    made: Instant,
}

impl LastPage {
    /// The last page, or what `make` makes.
    pub fn at(&self, now: Instant, make: impl FnOnce() -> String) -> Bytes {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(page) = &*last
            && now.saturating_duration_since(page.made) < GOOD_FOR
        {
            return page.text.clone();
        }
        let text = Bytes::from(make());
        *last = (text.len() > MAX_SMALL_BYTES).then(|| Page {
            text: text.clone(),
            made: now,
        });
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_large_page_is_made_once_a_second() {
        let (pages, start) = (LastPage::default(), Instant::now());
        let page = |at, letter: &str| {
            let text = pages.at(start + at, || letter.repeat(MAX_SMALL_BYTES + 1));
            String::from_utf8_lossy(&text[..1]).into_owned()
        };
        assert_eq!(page(Duration::ZERO, "a"), "a");
        assert_eq!(page(999 * MS, "b"), "a");
        assert_eq!(page(1000 * MS, "c"), "c");
        assert_eq!(page(1999 * MS, "d"), "c");
    }

    #[test]
    fn a_small_page_is_made_for_everybody() {
        let (pages, now) = (LastPage::default(), Instant::now());
        let page = |text: String| pages.at(now, || text);
        let largest = "a".repeat(MAX_SMALL_BYTES);
        assert_eq!(page(largest.clone()), largest);
        assert_eq!(page("b".to_owned()), "b");
    }
}
