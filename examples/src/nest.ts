// A NestJS app behind Baton, decorators and all. Nest makes an `http.Server` for its adapter; that one is attached.
import { Controller, Get, Module, Req } from '@nestjs/common'
import { NestFactory } from '@nestjs/core'
import { createBackend } from '@baton/backend-sdk'
import type { IncomingMessage } from 'node:http'

@Controller()
class AppController {
  @Get()
  hello(@Req() { socket }: IncomingMessage): string {
    return `Hello from process ${process.pid}. You are ${socket.remoteAddress}:${socket.remotePort}.\n`
  }
}

@Module({ controllers: [AppController] })
class AppModule {}

const app = await NestFactory.create(AppModule)
// Instead of `app.listen()`: modules are initialised and routes are there, but no socket is opened.
await app.init()

// Which broker and which service come from BATON_SOCKET and BATON_SERVICE.
const backend = createBackend()
backend.attach(app.getHttpServer())
await backend.ready()

// First the connections, then Nest's own hooks (`OnModuleDestroy`, `OnApplicationShutdown`): what is in flight may need a
// database until its answer is written. Not `app.enableShutdownHooks()`, which would close both at once.
process.once('SIGTERM', () => void backend.drain().then(() => app.close()))
