"""Pay somebody once, whatever happens to the connection or the server meanwhile.

TRADECHAT_PASSWORD=... python examples/pay_once.py HOST PORT USER PAYEE CENTS
"""

import os
import sys
import time

from tradechat import CallTimeout, Client, Receipt, ServerBusy, format_amount


def pay_once(client: Client, payee: str, cents: int) -> Receipt:
    """Make one payment and return its outcome, however often the request has to be sent."""
    to_user = client.lookup(payee).user_id
    req_id = client.new_req_id()  # the name of this payment, taken before anything is sent
    try:
        return client.transfer(to_user, cents, req_id=req_id)
    except CallTimeout:
        while True:  # it may have been made or not
            try:
                # tells which, or makes it
                return client.transfer(to_user, cents, req_id=req_id)
            except (CallTimeout, ServerBusy):
                time.sleep(0.5)


def main() -> None:
    host, port, user, payee, cents = sys.argv[1:]
    with Client(host, int(port), timeout_s=2.0, reconnect=True) as client:
        client.login(user, os.environ["TRADECHAT_PASSWORD"])
        receipt = pay_once(client, payee, int(cents))
    print(f"paid as transaction {receipt.txn_id}, balance {format_amount(receipt.balance)}")


if __name__ == "__main__":
    main()
