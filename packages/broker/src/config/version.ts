/** Backends report at most this many characters (HELLO). */
const MAX_VERSION = 128

/** Versions to choose by are also words of the operator's protocol, and label metrics. */
export const VERSION = new RegExp(String.raw`^[\x21-\x7e]{1,${MAX_VERSION}}$`)
export const VERSION_EXPECTED = `a version has 1 to ${MAX_VERSION} printable characters, and no spaces`
