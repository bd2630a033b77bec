"""The BPMN files against the code that serves them."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from examples.order_fulfilment.decisions import JOB_RETRIES
from examples.order_fulfilment.ledger import Ledger
from examples.order_fulfilment.orders import ORDER_PLACED, ORDER_SHIPPED
from examples.order_fulfilment.shop import PROCESS_FILES
from examples.order_fulfilment.workers import OUT_OF_STOCK, Services

NAMES = {
    "bpmn": "http://www.omg.org/spec/BPMN/20100524/MODEL",
    "bpmndi": "http://www.omg.org/spec/BPMN/20100524/DI",
    "zeebe": "http://camunda.org/schema/zeebe/1.0",
}
# Elements that wait inside a process; a message for one of them must say which order it is for.
CATCHING = (
    "receiveTask",
    "intermediateCatchEvent/bpmn:messageEventDefinition",
    "boundaryEvent/bpmn:messageEventDefinition",
)

every_file = pytest.mark.parametrize("path", PROCESS_FILES, ids=lambda path: path.name)


def parse(path: Path) -> ElementTree.Element:
    return ElementTree.parse(path).getroot()


def all_of(name: str) -> list[ElementTree.Element]:
    return [element for path in PROCESS_FILES for element in parse(path).iterfind(f".//{name}", NAMES)]


def test_workers_serve_exactly_the_job_types_of_the_processes(tmp_path: Path) -> None:
    tasks = all_of("bpmn:serviceTask")
    definitions = [task.find("bpmn:extensionElements/zeebe:taskDefinition", NAMES) for task in tasks]

    wanted = {definition.get("type") for definition in definitions if definition is not None}

    assert None not in definitions
    with Ledger(tmp_path) as ledger:
        assert wanted == set(Services(ledger).handlers())


def test_every_job_starts_with_the_retries_that_the_backoff_counts_from() -> None:
    assert {definition.get("retries") for definition in all_of("zeebe:taskDefinition")} == {str(JOB_RETRIES)}


@every_file
def test_every_message_that_a_process_waits_for_names_its_order(path: Path) -> None:
    root = parse(path)
    awaited = {element.get("messageRef") for kind in CATCHING for element in root.iterfind(f".//bpmn:{kind}", NAMES)}

    for message_id in awaited:
        subscription = root.find(f"bpmn:message[@id='{message_id}']//zeebe:subscription", NAMES)
        assert subscription is not None
        assert subscription.get("correlationKey") == "=order.id"


def test_processes_listen_to_the_messages_that_the_shop_publishes() -> None:
    assert {message.get("name") for message in all_of("bpmn:message")} == {ORDER_PLACED, ORDER_SHIPPED}


def test_the_signal_of_a_refusal_is_thrown_in_one_process_and_heard_in_the_other() -> None:
    orders, notification = map(parse, PROCESS_FILES)

    assert orders.find(".//bpmn:endEvent/bpmn:signalEventDefinition", NAMES) is not None
    assert notification.find(".//bpmn:startEvent/bpmn:signalEventDefinition", NAMES) is not None
    assert {signal.get("name") for signal in all_of("bpmn:signal")} == {"order-refused"}


def test_the_error_that_the_stock_worker_throws_is_caught() -> None:
    assert [error.get("errorCode") for error in all_of("bpmn:error")] == [OUT_OF_STOCK]


def test_the_payment_can_be_undone() -> None:
    boundary = parse(PROCESS_FILES[0]).find(".//bpmn:boundaryEvent[@attachedToRef='retrieve-payment']", NAMES)
    association = parse(PROCESS_FILES[0]).find(".//bpmn:association", NAMES)

    assert boundary is not None
    assert association is not None
    assert (association.get("sourceRef"), association.get("targetRef")) == (boundary.get("id"), "refund-payment")


@every_file
def test_every_element_is_drawn(path: Path) -> None:
    root = parse(path)
    (process,) = root.iterfind("bpmn:process", NAMES)
    elements = {element.get("id") for element in process if element.get("id")}
    drawn = {
        each.get("bpmnElement") for kind in ("Shape", "Edge") for each in root.iterfind(f".//bpmndi:BPMN{kind}", NAMES)
    }

    assert drawn == elements


@every_file
def test_every_flow_leads_from_one_element_of_the_process_to_another(path: Path) -> None:
    root = parse(path)
    (process,) = root.iterfind("bpmn:process", NAMES)
    flows = list(process.iterfind("bpmn:sequenceFlow", NAMES))
    outgoing = {each.text for each in process.iterfind("*/bpmn:outgoing", NAMES)}
    incoming = {each.text for each in process.iterfind("*/bpmn:incoming", NAMES)}

    assert {flow.get("id") for flow in flows} == outgoing == incoming
    for flow in flows:
        for end in ("sourceRef", "targetRef"):
            assert process.find(f"*[@id='{flow.get(end)}']") is not None
