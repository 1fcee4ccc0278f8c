// Client of the admin API (docs/reference/admin.md). URLs are relative, because a proxy may add a path prefix.

/** In memory only: it is lost when the page is closed, and scripts of other origins cannot read it. */
let token = ''

/** @param {string} value */
export function useToken(value) {
  token = value
}

export function hasToken() {
  return token !== ''
}

/** An error response of the broker, with its stable code. */
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
 * @returns {Promise<Response>} with any status
 */
function request(path, init = {}) {
  const headers = new Headers(init.headers)
  if (token !== '') headers.set('authorization', `Bearer ${token}`)
  return fetch(path, { ...init, headers, cache: 'no-store', credentials: 'omit' })
}

/**
 * @param {string} path
 * @param {AbortSignal} [signal]
 * @returns {Promise<Response>} successful; otherwise throws an `ApiError`
 */
export async function open(path, signal) {
  const answer = await request(path, signal ? { signal } : {})
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
 * @param {readonly number[]} [answers] further statuses whose body is an answer, not an error
 * @returns {Promise<Answer>}
 */
export async function post(path, body, answers = []) {
  const headers = { 'content-type': 'application/json' }
  const answer = await request(path, { method: 'POST', headers, body: JSON.stringify(body) })
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
 * The message shown for a failed request.
 *
 * @param {unknown} error
 */
export function explain(error) {
  if (error instanceof ApiError) return `${error.message} (${error.code})`
  return 'The broker did not answer.'
}
