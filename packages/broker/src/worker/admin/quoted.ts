/** Characters of a client's own text that an answer repeats. */
const MAX_LENGTH = 64

/** A text of a client's in an error message. */
export function quoted(text: string): string {
  return JSON.stringify(text.length > MAX_LENGTH ? `${text.slice(0, MAX_LENGTH)}...` : text)
}
