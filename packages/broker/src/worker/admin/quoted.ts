/** Maximum characters of a client's text repeated in an answer. */
const MAX_LENGTH = 64

/** Quotes a client's text for an error message. */
export function quoted(text: string): string {
  return JSON.stringify(text.length > MAX_LENGTH ? `${text.slice(0, MAX_LENGTH)}...` : text)
}
