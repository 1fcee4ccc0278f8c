import type { MaintenancePage } from '../../ipc/controls.ts'

/** Seconds after which a client may try again. */
const RETRY_AFTER = 30

/** The answer to a request while its service is in maintenance. */
export function maintenanceAnswer({ type, page }: Pick<MaintenancePage, 'type' | 'page'>): Buffer {
  const body = Buffer.from(page, 'base64')
  const head =
    `HTTP/1.1 503 Service Unavailable\r\nRetry-After: ${RETRY_AFTER}\r\nConnection: close\r\nCache-Control: no-store\r\n` +
    `Content-Type: ${type}\r\nContent-Length: ${body.length}\r\n\r\n`
  return Buffer.concat([Buffer.from(head), body])
}
