import { existsSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { defineHandler } from 'nitro/h3'

async function* lines() {
  yield `${process.pid}\n`
  while (!existsSync(process.env.RELEASE!)) {
    await sleep(20)
    yield 'waiting\n'
  }
  yield 'end\n'
}

export default defineHandler(() => ReadableStream.from(lines()).pipeThrough(new TextEncoderStream()))
