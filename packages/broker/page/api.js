// The admin API, as docs/reference/admin.md has it. Addresses are relative: behind a proxy the page may have a prefix.

/** Kept here alone: it is gone with the page, and no script of another origin can read it. */
let token = ''

/** @param {string} value */
export function useToken(value) {
  token = value
}

export function hasToken() {
  return token !== ''
}

/** A refusal by the broker, with the stable code of its error. */
export class ApiError extends Error {
  /**
   * @param {number} status
   * @param {string} code
   * @param {string} message
   */
  constructor(status, code, message) {
    super(message)
    this.name = 'ApiError'
    this.status = status
    this.code = code
  }
}

/**
 * @param {string} path
 * @param {RequestInit} [init]
 * @returns {Promise<Response>} whatever the status is
 */
function ask(path, init = {}) {
  const headers = new Headers(init.headers)
  if (token !== '') headers.set('authorization', `Bearer ${token}`)
  return fetch(path, { ...init, headers, cache: 'no-store', credentials: 'omit' })
}

/**
 * @param {string} path
 * @param {AbortSignal} [signal]
 * @returns {Promise<Response>} a good one
 */
export async function open(path, signal) {
  const answer = await ask(path, signal ? { signal } : {})
  if (answer.ok) return answer
  throw await refusal(answer)
}

/**
 * @template Answer
 * @param {string} path
 * @param {AbortSignal} [signal]
 * @returns {Promise<Answer>}
 */
export async function get(path, signal) {
  return (await open(path, signal)).json()
}

/**
 * @template Answer
 * @param {string} path
 * @param {object} body
 * @param {readonly number[]} [answers] statuses that are an answer too, beside those of success
 * @returns {Promise<Answer>}
 */
export async function post(path, body, answers = []) {
  const headers = { 'content-type': 'application/json' }
  const answer = await ask(path, { method: 'POST', headers, body: JSON.stringify(body) })
  if (answer.ok || answers.includes(answer.status)) return answer.json()
  throw await refusal(answer)
}

/** @param {Response} answer */
async function refusal(answer) {
  /** @type {{ error?: { code?: string, message?: string } }} */
  const body = await answer.json().catch(() => ({}))
  const { code = `HTTP_${answer.status}`, message = answer.statusText } = body.error ?? {}
  return new ApiError(answer.status, code, message)
}

/**
 * What to tell of a request that failed.
 *
 * @param {unknown} error
 */
export function explain(error) {
  if (error instanceof ApiError) return `${error.message} (${error.code})`
  return 'The broker did not answer.'
}
