// HAProxy with one thread: as an HTTP proxy that reuses connections to the app for any client's requests, and as a
// TCP relay.
import { needed } from '../installed.mjs'
import { BACKLOG, MAX_CLIENTS, startProxy } from './proxy.mjs'

const HTTP = `
  mode http
  option http-keep-alive
  http-reuse always`
const TCP = `
  mode tcp`

const configuration = (mode) => (/** @type {{ port: number, upstreams: number[] }} */ place) =>
  `
global
  nbthread 1
  maxconn ${MAX_CLIENTS}
defaults${mode}
  timeout connect 5s
  timeout client 120s
  timeout server 120s
listen app
  bind 127.0.0.1:${place.port} backlog ${BACKLOG}
${place.upstreams.map((upstream, index) => `  server app${index} 127.0.0.1:${upstream}`).join('\n')}
`

const startIn = (mode, options) =>
  startProxy({
    command: needed('haproxy'),
    args: (file) => ['-db', '-q', '-f', file],
    configuration: configuration(mode),
    options,
  })

/** @param {import('./peer.mjs').PeerOptions} options */
export const startHttp = async (options = {}) => startIn(HTTP, options)

/** @param {import('./peer.mjs').PeerOptions} options */
export const startTcp = async (options = {}) => startIn(TCP, options)
