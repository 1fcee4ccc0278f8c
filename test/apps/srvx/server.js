// https://srvx.h3.dev/guide
import { existsSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { serve } from 'srvx'

async function* lines() {
  yield `${process.pid}\n`
  while (!existsSync(process.env.RELEASE)) {
    await sleep(20)
    yield 'waiting\n'
  }
  yield 'end\n'
}

serve({
  fetch(request) {
    if (new URL(request.url).pathname === '/stream')
      return new Response(ReadableStream.from(lines()).pipeThrough(new TextEncoderStream()))
    const { remotePort } = request.runtime.node.req.socket
    return new Response(`${process.pid} ${request.ip} ${remotePort}`)
  },
})
