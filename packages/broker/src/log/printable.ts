/**
 * Makes untrusted text safe for a terminal. A backend's version, for example, may contain control characters, which can move the
 * cursor, or marks that change the text direction. They are written as escapes.
 */
export function printable(text: string): string {
  return text.replace(
    /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu,
    (character) => `\\u{${character.codePointAt(0)?.toString(16) ?? ''}}`,
  )
}
