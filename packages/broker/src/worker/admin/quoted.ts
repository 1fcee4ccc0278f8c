/** Characters of a client's own text that an answer repeats. */
const LONGEST = 64

/** A text of a client's in an error message. */
export function quoted(text: string): string {
  return JSON.stringify(text.length > LONGEST ? `${text.slice(0, LONGEST)}...` : text)
}
