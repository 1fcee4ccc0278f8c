export { createBalancer, type Balance, type Candidate, type Chooser, type ChooseKey } from './balancer.ts'
