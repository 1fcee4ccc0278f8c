/**
 * Keys for TLS session tickets by service, in base64, the newest first. Only the channels between master and workers carry them, and the
 * backends' control connections: they are in no log, no file and no answer.
 */
export type TicketKeys = Readonly<Record<string, readonly string[]>>
