// A NestJS app behind Baton, decorators included. Nest creates an `http.Server` for its adapter; that server is attached.
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
// Instead of `app.listen()`: initializes modules and routes, but opens no socket.
await app.init()

// BATON_SOCKET and BATON_SERVICE name the broker and the service.
const backend = createBackend()
backend.attach(app.getHttpServer())
await backend.ready()

// Connections end first, then Nest's hooks run (`OnModuleDestroy`, `OnApplicationShutdown`): a request in flight may need the
// database until its response is written. Not `app.enableShutdownHooks()`, which would close both at the same time.
process.once('SIGTERM', () => void backend.drain().then(() => app.close()))
