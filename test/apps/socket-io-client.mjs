// https://socket.io/docs/v4/client-initialization/
import { io } from 'socket.io-client'

const socket = io('http://127.0.0.1:8080')

socket.on('connect', () => socket.emit('message', 'hello'))
socket.on('message', (text) => console.log(text))
socket.on('disconnect', (reason) => console.log(`disconnected: ${reason}`))
