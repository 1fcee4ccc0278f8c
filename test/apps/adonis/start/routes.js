import { existsSync } from 'node:fs'
import { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import router from '@adonisjs/core/services/router'

async function* lines() {
  yield `${process.pid}\n`
  while (!existsSync(process.env.RELEASE)) {
    await sleep(20)
    yield 'waiting\n'
  }
  yield 'end\n'
}

router.get('/', ({ request }) => `${process.pid} ${request.ip()} ${request.request.socket.remotePort}`)
router.get('/stream', ({ response }) => response.stream(Readable.from(lines())))
