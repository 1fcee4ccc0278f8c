export default function Home() {
  return <h1>Hello, Next.js!</h1>
}
