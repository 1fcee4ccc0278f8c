// Formats figures. An unknown figure is a dash, never a zero.

const UNKNOWN = '–'

const whole = new Intl.NumberFormat('en')
const three = new Intl.NumberFormat('en', { maximumSignificantDigits: 3 })
const tenths = new Intl.NumberFormat('en', { minimumFractionDigits: 1, maximumFractionDigits: 1 })
const hundredths = new Intl.NumberFormat('en', { minimumFractionDigits: 2, maximumFractionDigits: 2 })

/** @param {number | null | undefined} value */
export function count(value) {
  return value === null || value === undefined ? UNKNOWN : whole.format(value)
}

/**
 * A rate, or another figure with three significant digits.
 *
 * @param {number | null | undefined} value
 */
export function figure(value) {
  if (value === null || value === undefined) return UNKNOWN
  return value >= 1000 ? whole.format(Math.round(value)) : three.format(value)
}

/** @param {number | null | undefined} ms */
export function milliseconds(ms) {
  if (ms === null || ms === undefined) return UNKNOWN
  if (ms < 1000) return `${three.format(ms)} ms`
  return duration(ms)
}

/**
 * For columns of times: always in milliseconds, so that they can be compared.
 *
 * @param {number | null} ms
 */
export function precisely(ms) {
  return ms === null ? UNKNOWN : `${(ms < 100 ? hundredths : tenths).format(ms)} ms`
}

/**
 * The two largest units, such as `3 h 12 min`.
 *
 * @param {number} ms
 */
export function duration(ms) {
  const seconds = ms / 1000
  if (seconds < 60) return `${three.format(seconds)} s`
  const minutes = Math.floor(seconds / 60)
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`
  const hours = Math.floor(minutes / 60)
  if (hours < 24) return `${hours} h ${minutes % 60} min`
  return `${Math.floor(hours / 24)} d ${hours % 24} h`
}

/**
 * In whole seconds, so that it does not flicker.
 *
 * @param {string} since ISO 8601
 * @param {number} now milliseconds since 1970
 */
export function age(since, now) {
  return duration(Math.floor(Math.max(0, now - Date.parse(since)) / 1000) * 1000)
}

/**
 * The time of day, where the reader is.
 *
 * @param {string} iso
 */
export function timeOfDay(iso) {
  return new Date(iso).toLocaleTimeString('en-GB')
}

/**
 * @param {number} many
 * @param {string} one
 */
export function plural(many, one) {
  return `${count(many)} ${one}${many === 1 ? '' : 's'}`
}
