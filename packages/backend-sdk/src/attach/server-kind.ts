import type { Server as HttpServer } from 'node:http'
import type { Server as HttpsServer } from 'node:https'
import type * as net from 'node:net'
import * as tls from 'node:tls'
import { http, https } from '../node-http.ts'

/** Servers that can receive client connections. HTTP/2 servers are included: by class they are `tls.Server` or `net.Server`. */
export type AttachableServer = HttpServer | HttpsServer | tls.Server | net.Server

export type ServerKind = 'http' | 'https' | 'tls' | 'net'

/** The most derived class counts: `https.Server` and HTTP/2's secure server extend `tls.Server`, and all extend `net.Server`. */
export function serverKind(server: AttachableServer): ServerKind {
  if (server instanceof https.Server) return 'https'
  if (server instanceof http.Server) return 'http'
  if (server instanceof tls.Server) return 'tls'
  return 'net'
}
