//! A vocabulary in little memory: one string and an index in the order of the words.

/// Words with their ids.
#[derive(Debug)]
pub(crate) struct Words {
    text: String,
    /// Start in `text` and id, sorted by word; a word ends where the next begins.
    index: Vec<(u32, u32)>,
    /// Bytes of the longest word.
    longest: usize,
}

impl Words {
    /// `words` must be fewer than 4 GiB together.
    pub(crate) fn new(mut words: Vec<(&str, u32)>) -> Self {
        words.sort_unstable();
        let mut text = String::with_capacity(words.iter().map(|(word, _)| word.len()).sum());
        let mut index = Vec::with_capacity(words.len());
        for (word, id) in &words {
            index.push((text.len() as u32, *id));
            text.push_str(word);
        }
        Self { text, index, longest: words.iter().map(|(word, _)| word.len()).max().unwrap_or(0) }
    }

    fn word(&self, at: usize) -> &str {
        let end = self.index.get(at + 1).map_or(self.text.len(), |&(start, _)| start as usize);
        &self.text[self.index[at].0 as usize..end]
    }

    fn id(&self, word: &str) -> Option<u32> {
        let (mut low, mut high) = (0, self.index.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.word(middle).cmp(word) {
                std::cmp::Ordering::Equal => return Some(self.index[middle].1),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// Id and bytes of the longest word that `text` begins with.
    pub(crate) fn longest(&self, text: &str) -> Option<(u32, usize)> {
        let ends =
            text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|&end| end <= self.longest);
        ends.collect::<Vec<_>>().into_iter().rev().find_map(|end| Some((self.id(&text[..end])?, end)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_word_wins() {
        let words = Words::new(vec![("b", 7), ("ab", 1), ("a", 2), ("abcé", 3)]);
        assert_eq!(words.longest("abcéd"), Some((3, 5)));
        assert_eq!(words.longest("abcd"), Some((1, 2)));
        assert_eq!(words.longest("ac"), Some((2, 1)));
        assert_eq!(words.longest("b"), Some((7, 1)));
        assert_eq!(words.longest("c"), None);
        assert_eq!(words.longest(""), None);
    }
}
