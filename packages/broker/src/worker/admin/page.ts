import { readdirSync, readFileSync } from 'node:fs'
import { extname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

import type { FastifyInstance, FastifyReply } from 'fastify'

import { packageFile } from '../../package-files.ts'
import { AdminError } from './errors.ts'
import { quoted } from './quoted.ts'

const FOLDER = fileURLToPath(packageFile('page'))

const TYPES = new Map([
  ['.html', 'text/html; charset=utf-8'],
  ['.css', 'text/css; charset=utf-8'],
  ['.js', 'text/javascript; charset=utf-8'],
  ['.svg', 'image/svg+xml'],
])

/**
 * Allows only the page's own files and this server's API: no inline scripts or styles, no markup from strings (`trusted-types`), and
 * no frame around the page (clickjacking).
 */
const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self'",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
  "require-trusted-types-for 'script'",
  "trusted-types 'none'",
].join('; ')

const HEADERS = {
  'content-security-policy': POLICY,
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
  'referrer-policy': 'no-referrer',
}

/** Served without a token, since a browser cannot send one when it loads a page. They reveal nothing about this broker. */
export const PAGE_ROUTES = ['/', '/page/:file'] as const

/**
 * Adds the status page. Its files are read once, here: requests then cannot reach other files, and replacing the package while the
 * broker runs does not mix two versions.
 */
export function addPage(app: FastifyInstance): void {
  const files = new Map(
    readdirSync(FOLDER)
      .filter((name) => TYPES.has(extname(name)))
      .map((name) => [name, readFileSync(join(FOLDER, name))]),
  )
  const send = (reply: FastifyReply, name: string) => {
    const content = files.get(name)
    if (content === undefined)
      throw new AdminError('BATON_ERR_ADMIN_NO_ROUTE', `the page has no file ${quoted(name)}`)
    return reply
      .headers(HEADERS)
      .type(TYPES.get(extname(name)) ?? '')
      .send(content)
  }
  const [index, file] = PAGE_ROUTES
  app.get(index, (_request, reply) => send(reply, 'index.html'))
  app.get<{ Params: { file: string } }>(file, ({ params }, reply) => send(reply, params.file))
}
