/**
 * A text of somebody else's on a person's terminal: what a backend calls its version may hold control characters, which move the
 * cursor and more, or marks that turn the direction of the line. They are written as escapes.
 */
export function printable(text: string): string {
  return text.replace(
    /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu,
    (character) => `\\u{${character.codePointAt(0)?.toString(16) ?? ''}}`,
  )
}
