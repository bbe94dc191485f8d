"""Several processes that train as one: how they find each other, add gradients up, and end or go on when one fails."""
