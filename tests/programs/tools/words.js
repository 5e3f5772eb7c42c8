/** @fileoverview Words: generators, closures, maps, text beyond ASCII. */

/**
 * @param {string} text
 * @return {!Iterable<string>}
 */
function* wordsOf(text) {
  for (const [word] of text.matchAll(/\S+/g)) {
    yield word.toLowerCase();
  }
}

/**
 * @param {string} text
 * @return {!Map<string, number>}
 */
function countWords(text) {
  /** @type {!Map<string, number>} */
  const counts = new Map();
  for (const word of wordsOf(text)) {
    counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  return counts;
}

/**
 * @param {!Map<string, number>} counts
 * @param {number=} limit
 * @return {!Array<string>}
 */
function mostFrequent(counts, limit = 3) {
  return [...counts]
      .sort(([, a], [, b]) => b - a)
      .slice(0, limit)
      .map(([word, count]) => `${word}: ${count}`);
}

const GREETING = 'Grüße aus Zürich, Grüße aus 東京';
