import { index, route } from '@react-router/dev/routes'

export default [index('home.jsx'), route('who', 'who.js'), route('stream', 'stream.js')]
