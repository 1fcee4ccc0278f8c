import * as http from 'node:http'
import * as https from 'node:https'
import type * as net from 'node:net'
import * as tls from 'node:tls'

/** What client connections can be given to. HTTP/2 servers are among them: a `tls.Server` or a `net.Server` by class. */
export type AttachableServer = http.Server | https.Server | tls.Server | net.Server

export type ServerKind = 'http' | 'https' | 'tls' | 'net'

/** `https.Server` and `http2.createSecureServer()` are made of `tls.Server`, and all of them of `net.Server`. */
export function serverKind(server: AttachableServer): ServerKind {
  if (server instanceof https.Server) return 'https'
  if (server instanceof http.Server) return 'http'
  if (server instanceof tls.Server) return 'tls'
  return 'net'
}
