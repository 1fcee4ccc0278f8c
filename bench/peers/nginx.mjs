// nginx as an HTTP proxy: one worker process, with keep-alive connections to the app.
import { readFileSync } from 'node:fs'
import { needed } from '../installed.mjs'
import { BACKLOG, MAX_CLIENTS, startProxy } from './proxy.mjs'

/** As root it would run its worker as another user, who cannot read this folder. */
const user = () => (process.getuid() === 0 ? 'user root;' : '')

const configuration = ({ port, upstreams, folder }) => `
daemon off;
${user()}
worker_processes 1;
worker_rlimit_nofile ${MAX_CLIENTS * 2};
pid ${folder}/nginx.pid;
error_log stderr emerg;
events { worker_connections ${MAX_CLIENTS * 2}; }
http {
  access_log off;
  client_body_temp_path ${folder}/body;
  proxy_temp_path ${folder}/proxy;
  fastcgi_temp_path ${folder}/fastcgi;
  uwsgi_temp_path ${folder}/uwsgi;
  scgi_temp_path ${folder}/scgi;
  keepalive_requests 1000000000;
  upstream app {
${upstreams.map((upstream) => `    server 127.0.0.1:${upstream};`).join('\n')}
    keepalive 128;
    keepalive_requests 1000000000;
  }
  server {
    listen 127.0.0.1:${port} backlog=${BACKLOG};
    location / {
      proxy_pass http://app;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }
  }
}
`

/** @param {import('./peer.mjs').PeerOptions} options */
export async function start(options = {}) {
  return startProxy({
    command: needed('nginx'),
    args: (file, folder) => ['-p', folder, '-c', file, '-e', 'stderr'],
    configuration,
    workers: (pid) => readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').map(Number),
    options,
  })
}
